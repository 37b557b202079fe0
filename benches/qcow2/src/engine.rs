//! An engine with many requests in flight (io_uring, O_DIRECT), on a raw file and on an image.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use io_uring::{IoUring, opcode, types};
use qcow2_rs::helpers::Qcow2IoBuf;
use qcow2_rs::utils::qcow2_setup_dev_uring;
use strata_qcow2::{AlignedBuf, Extent, Image, Ticket};

use crate::measure::{here, random_offsets, report, run};
use crate::peers;

const DEPTH: usize = 32;
const SIZE: u64 = 1 << 30;
const COUNT: u32 = 40_000;
const ROUNDS: usize = 5;

/// Where a read goes.
enum Target<'a> {
    Raw,
    Image(&'a Image),
}

impl Target<'_> {
    fn begin(&self, offset: u64) -> (u64, Option<Ticket>) {
        let Target::Image(image) = self else {
            return (offset, None);
        };
        let ticket = image.enter();
        match image.extent(offset, 4096).expect("an extent") {
            (Extent::Data { offset }, 4096) => (offset, Some(ticket)),
            other => panic!("{other:?}"),
        }
    }

    fn end(&self, ticket: Option<Ticket>) {
        if let (Target::Image(image), Some(ticket)) = (self, ticket) {
            image.leave(ticket);
        }
    }
}

fn reads(file: &File, target: &Target<'_>) {
    let mut ring = IoUring::new(DEPTH as u32).expect("a ring");
    let mut bufs: Vec<_> = (0..DEPTH)
        .map(|_| AlignedBuf::new(4096, 4096).expect("a buffer"))
        .collect();
    let mut tickets: Vec<Option<Ticket>> = (0..DEPTH).map(|_| None).collect();
    let mut offsets = random_offsets(COUNT, 4096, SIZE);
    let mut free: Vec<usize> = (0..DEPTH).collect();
    loop {
        while !free.is_empty() {
            let Some(offset) = offsets.next() else { break };
            let Some(slot) = free.pop() else { break };
            let (host, ticket) = target.begin(offset);
            tickets[slot] = ticket;
            let fd = types::Fd(file.as_raw_fd());
            let entry = opcode::Read::new(fd, bufs[slot].as_mut_ptr(), 4096)
                .offset(host)
                .build()
                .user_data(slot as u64);
            // SAFETY: the buffer lives until its slot is free again.
            unsafe { ring.submission().push(&entry) }.expect("room in the ring");
        }
        if free.len() == DEPTH {
            return;
        }
        ring.submit_and_wait(1).expect("submitting");
        let ended: Vec<_> = ring
            .completion()
            .map(|c| (c.user_data(), c.result()))
            .collect();
        for (slot, result) in ended {
            assert_eq!(result, 4096);
            target.end(tickets[slot as usize].take());
            free.push(slot as usize);
        }
    }
}

/// Leaves a file on the disk alone: dirty pages would be written, and clean ones looked at, when
/// O_DIRECT reads what they hold.
fn settle(path: &Path) {
    let file = File::open(path).expect("a file");
    file.sync_all().expect("a flush");
    // SAFETY: the call takes no pointer, and the descriptor is open.
    let done = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(done, 0);
}

/// Random reads of 4 KiB, 32 at a time.
pub fn depth_32(dir: &Path) {
    let (raw, image) = (dir.join("raw"), dir.join("image"));
    let names = [
        raw.to_str().expect("a name"),
        image.to_str().expect("a name"),
    ];
    let file = File::create(&raw).expect("a file");
    let block: Vec<u8> = (0..1 << 20).map(|n| (n * 7 / 3) as u8).collect();
    for step in 0..SIZE >> 20 {
        file.write_all_at(&block, step << 20).expect("a write");
    }
    run(
        "qemu-img",
        &[
            "convert", "-S", "0", "-f", "raw", "-O", "qcow2", names[0], names[1],
        ],
    );
    for path in [&raw, &image] {
        settle(path);
    }
    let mut results = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (number, path) in [&raw, &image].into_iter().enumerate() {
            let file = std::fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(path)
                .expect("a file");
            let open = peers::ours(&image, false);
            let target = if number == 0 {
                Target::Raw
            } else {
                Target::Image(&open)
            };
            results[number].push(here(|| reads(&file, &target)));
        }
        results[2].push(here(|| reads_by_qcow2_rs(&image)));
    }
    for (who, costs) in ["raw file", "strata", "qcow2-rs"].into_iter().zip(&results) {
        report("read 4 KiB O_DIRECT depth 32", who, costs, COUNT);
    }
}

/// The same by qcow2-rs on its own io_uring engine.
fn reads_by_qcow2_rs(image: &Path) {
    let image = image.to_owned();
    tokio_uring::start(async move {
        let params = peers::qcow2_rs_params(false, true);
        let device = qcow2_setup_dev_uring(&image, &params)
            .await
            .expect("an image");
        let device = Rc::new(device);
        let offsets = Rc::new(RefCell::new(random_offsets(COUNT, 4096, SIZE)));
        let tasks: Vec<_> = (0..DEPTH)
            .map(|_| {
                let (device, offsets) = (device.clone(), offsets.clone());
                tokio_uring::spawn(async move {
                    let mut buf = Qcow2IoBuf::<u8>::new(4096);
                    loop {
                        let next = offsets.borrow_mut().next();
                        let Some(offset) = next else { return };
                        let done = device.read_at(&mut buf, offset).await;
                        assert_eq!(done.expect("a read"), 4096);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a task");
        }
    });
}
