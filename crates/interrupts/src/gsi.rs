//! The GSIs of a VM: who owns them, where they lead, and whether they are open.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use kvm_bindings::{KvmIrqRouting, kvm_irq_routing_entry};
use kvm_ioctls::VmFd;

use crate::arch::{self, Route};
use crate::ioapic::PinRoute;
use crate::irqfd::Irqfd;
use crate::state::MsiState;
use crate::{Error, Kind, MsiMessage};

/// What drives a GSI.
#[derive(Debug)]
enum Source {
    /// Nothing yet: an unclaimed pin.
    None,
    /// A line whose level is set.
    Line,
    /// An eventfd.
    Irqfd(Irqfd),
}

#[derive(Debug)]
struct Gsi {
    route: Option<Route>,
    masked: bool,
    source: Source,
}

impl Gsi {
    /// Attaches or detaches the eventfd: without a route KVM would drop its events.
    fn sync(&mut self, vm: &VmFd) -> Result<(), Error> {
        let open = !self.masked && self.route.is_some();
        match &mut self.source {
            Source::Irqfd(irqfd) => irqfd.set_attached(vm, open),
            Source::None | Source::Line => Ok(()),
        }
    }

    /// Detaches the eventfd, and leaves one event in it if `pending`, otherwise none.
    fn restart(&mut self, vm: &VmFd, pending: bool) -> Result<(), Error> {
        match &mut self.source {
            Source::Irqfd(irqfd) => irqfd.restart(vm, pending),
            Source::None | Source::Line => Ok(()),
        }
    }
}

/// Every GSI with an owner or a route: the pins always, the others while they are allocated.
#[derive(Debug)]
pub(crate) struct GsiTable {
    gsis: BTreeMap<u32, Gsi>,
    limit: u32,
}

impl GsiTable {
    /// The pins of a new controller and nothing else, handed to KVM, which can route `limit`.
    pub(crate) fn new(vm: &VmFd, kind: Kind, limit: u32) -> Result<Self, Error> {
        let pins = (0..arch::PINS).map(|pin| {
            let (route, masked) = match kind {
                Kind::InKernel => (Some(Route::Pin(pin)), false),
                Kind::Split => (None, true),
            };
            (
                pin,
                Gsi {
                    route,
                    masked,
                    source: Source::None,
                },
            )
        });
        let table = Self {
            gsis: pins.collect(),
            limit,
        };
        table.commit(vm)?;
        Ok(table)
    }

    /// Makes a line the owner of `pin`.
    pub(crate) fn claim_line(&mut self, pin: u32) -> Result<(), Error> {
        self.unclaimed_pin(pin)?.source = Source::Line;
        Ok(())
    }

    /// Makes `irqfd` the owner of `pin`.
    pub(crate) fn claim_irqfd(&mut self, vm: &VmFd, pin: u32, irqfd: Irqfd) -> Result<(), Error> {
        let gsi = self.unclaimed_pin(pin)?;
        gsi.source = Source::Irqfd(irqfd);
        let claimed = gsi.sync(vm);
        if claimed.is_err() {
            gsi.source = Source::None;
        }
        claimed
    }

    fn unclaimed_pin(&mut self, pin: u32) -> Result<&mut Gsi, Error> {
        let gsi = if pin < arch::PINS {
            self.gsis.get_mut(&pin)
        } else {
            None
        };
        let gsi = gsi.ok_or(Error::NotAPin { gsi: pin })?;
        match gsi.source {
            Source::None => Ok(gsi),
            _ => Err(Error::GsiInUse { gsi: pin }),
        }
    }

    /// The lowest GSI that is free for a message-signalled interrupt.
    pub(crate) fn free_msi(&self) -> Result<u32, Error> {
        let mut taken = self.gsis.range(arch::PINS..).map(|(&gsi, _)| gsi);
        (arch::PINS..self.limit)
            .find(|&gsi| taken.next() != Some(gsi))
            .ok_or(Error::NoFreeGsi { limit: self.limit })
    }

    /// Gives `gsi` to a message-signalled interrupt: masked, and without a message.
    pub(crate) fn claim_msi(&mut self, gsi: u32, irqfd: Irqfd) -> Result<(), Error> {
        if !(arch::PINS..self.limit).contains(&gsi) {
            return Err(Error::NotAnMsi { gsi });
        }
        match self.gsis.entry(gsi) {
            Entry::Occupied(_) => Err(Error::GsiInUse { gsi }),
            Entry::Vacant(vacant) => {
                vacant.insert(Gsi {
                    route: None,
                    masked: true,
                    source: Source::Irqfd(irqfd),
                });
                Ok(())
            }
        }
    }

    /// Takes `gsi` from its owner. A message's route goes from KVM with the next change of the
    /// table, so that a device with thousands of vectors is removed at no cost.
    pub(crate) fn release(&mut self, vm: &VmFd, gsi: u32) {
        if let Some(entry) = self.gsis.get_mut(&gsi)
            && let Source::Irqfd(mut irqfd) = std::mem::replace(&mut entry.source, Source::None)
        {
            // Fails only where KVM has forgotten the eventfd, which is what is wanted.
            let _ = irqfd.set_attached(vm, false);
        }
        if gsi >= arch::PINS {
            self.gsis.remove(&gsi);
        }
    }

    /// Gives GSIs their messages by one change of KVM's table: all of them or none.
    pub(crate) fn set_messages(
        &mut self,
        vm: &VmFd,
        messages: &[(u32, MsiMessage)],
    ) -> Result<(), Error> {
        for &(gsi, _) in messages {
            self.msi(gsi)?;
        }
        let changed = self.set_routes(
            vm,
            messages
                .iter()
                .map(|&(gsi, message)| (gsi, Some(Route::Msi(message)))),
        )?;
        for gsi in changed {
            self.msi(gsi)?.sync(vm)?;
        }
        Ok(())
    }

    /// Masks or unmasks a message-signalled interrupt.
    pub(crate) fn set_masked(&mut self, vm: &VmFd, gsi: u32, masked: bool) -> Result<(), Error> {
        let entry = self.msi(gsi)?;
        let before = std::mem::replace(&mut entry.masked, masked);
        let synced = entry.sync(vm);
        if synced.is_err() {
            entry.masked = before;
        }
        synced
    }

    /// Whether an event waits at `gsi` for its mask to go.
    pub(crate) fn is_pending(&self, gsi: u32) -> Result<bool, Error> {
        match self.gsis.get(&gsi).map(|entry| &entry.source) {
            Some(Source::Irqfd(irqfd)) => irqfd.is_pending(),
            _ => Ok(false),
        }
    }

    /// Takes over what the split controller's IOAPIC programs for `pin`.
    ///
    /// The route outlives the mask: KVM finds in it the vectors whose EOI must reach the IOAPIC,
    /// and drivers do mask a level-triggered pin before they end its interrupt.
    pub(crate) fn set_pin(&mut self, vm: &VmFd, pin: u32, to: PinRoute) -> Result<(), Error> {
        let closes = to.masked || to.message.is_none();
        if closes {
            self.set_pin_mask(vm, pin, true)?;
        }
        self.set_routes(vm, std::iter::once((pin, to.message.map(Route::Msi))))?;
        if closes {
            Ok(())
        } else {
            self.set_pin_mask(vm, pin, false)
        }
    }

    /// Takes over all pins of a restored IOAPIC by one change of KVM's table. Events that the
    /// pins' owners left before are dropped.
    pub(crate) fn set_pins(
        &mut self,
        vm: &VmFd,
        pins: impl Iterator<Item = (u32, PinRoute)> + Clone,
    ) -> Result<(), Error> {
        for (_, gsi) in self.gsis.range_mut(..arch::PINS) {
            gsi.restart(vm, false)?;
        }
        self.set_routes(
            vm,
            pins.clone()
                .map(|(pin, to)| (pin, to.message.map(Route::Msi))),
        )?;
        for (pin, to) in pins {
            self.set_pin_mask(vm, pin, to.masked || to.message.is_none())?;
        }
        Ok(())
    }

    fn set_pin_mask(&mut self, vm: &VmFd, pin: u32, masked: bool) -> Result<(), Error> {
        match self.gsis.get_mut(&pin) {
            Some(entry) => {
                entry.masked = masked;
                entry.sync(vm)
            }
            None => Ok(()),
        }
    }

    /// Tells the owner of `pin` that the guest ended its interrupt.
    pub(crate) fn notify_resample(&self, pin: u32) {
        if let Some(Source::Irqfd(irqfd)) = self.gsis.get(&pin).map(|entry| &entry.source) {
            irqfd.notify_resample();
        }
    }

    /// The state of every message-signalled interrupt.
    pub(crate) fn msi_states(&self) -> Result<Vec<MsiState>, Error> {
        let msis = self.gsis.range(arch::PINS..);
        msis.map(|(&gsi, entry)| {
            let message = match entry.route {
                Some(Route::Msi(message)) => Some(message),
                _ => None,
            };
            Ok(MsiState {
                gsi,
                message,
                masked: entry.masked,
                pending: self.is_pending(gsi)?,
            })
        })
        .collect()
    }

    /// Continues from the saved state of the same message-signalled interrupts.
    pub(crate) fn set_msi_states(&mut self, vm: &VmFd, states: &[MsiState]) -> Result<(), Error> {
        let claimed = self.gsis.range(arch::PINS..).map(|(&gsi, _)| gsi);
        if !claimed.eq(states.iter().map(|state| state.gsi)) {
            return Err(Error::InvalidState {
                what: "interrupt controller",
                field: "msis",
            });
        }
        for state in states {
            self.msi(state.gsi)?.restart(vm, state.pending)?;
        }
        self.set_routes(
            vm,
            states.iter().map(|s| (s.gsi, s.message.map(Route::Msi))),
        )?;
        for state in states {
            self.set_masked(vm, state.gsi, state.masked)?;
        }
        Ok(())
    }

    fn msi(&mut self, gsi: u32) -> Result<&mut Gsi, Error> {
        let entry = if gsi < arch::PINS {
            None
        } else {
            self.gsis.get_mut(&gsi)
        };
        entry.ok_or(Error::NotAnMsi { gsi })
    }

    /// Changes routes by at most one ioctl, and says which GSIs changed.
    fn set_routes(
        &mut self,
        vm: &VmFd,
        routes: impl Iterator<Item = (u32, Option<Route>)>,
    ) -> Result<Vec<u32>, Error> {
        let mut before = Vec::new();
        for (gsi, route) in routes {
            if let Some(entry) = self.gsis.get_mut(&gsi)
                && entry.route != route
            {
                before.push((gsi, std::mem::replace(&mut entry.route, route)));
            }
        }
        if before.is_empty() {
            return Ok(Vec::new());
        }
        if let Err(error) = self.commit(vm) {
            for (gsi, route) in before.into_iter().rev() {
                if let Some(entry) = self.gsis.get_mut(&gsi) {
                    entry.route = route;
                }
            }
            return Err(error);
        }
        Ok(before.into_iter().map(|(gsi, _)| gsi).collect())
    }

    fn commit(&self, vm: &VmFd) -> Result<(), Error> {
        let entries: Vec<kvm_irq_routing_entry> = self
            .gsis
            .iter()
            .filter_map(|(&gsi, entry)| entry.route.map(|route| route.to_kvm(gsi)))
            .collect();
        let count = entries.len();
        let failed = |source| Error::SetRoutes { count, source };
        // The wrapper's only failure is a count above what KVM routes.
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| failed(kvm_ioctls::Error::new(E2BIG)))?;
        vm.set_gsi_routing(&table).map_err(failed)
    }
}

/// "Argument list too long" (`errno.h`).
const E2BIG: i32 = 7;
