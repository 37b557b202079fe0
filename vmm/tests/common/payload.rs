//! The payloads' code: 32-bit protected mode, no paging, position-independent.

use std::arch::global_asm;

use strata_legacy::{AcpiPower, layout};

/// A small guest.
#[derive(Clone, Copy, Debug)]
pub enum Payload {
    /// Says `ready` and powers off.
    PowerOff,
    /// Says `ready` and asks for a reset.
    Reset,
    /// Says `ready`, `used` if its memory has been used before, and asks for a reset.
    Remember,
    /// Says `ready` and goes to the reset vector in real mode.
    ResetVector,
    /// Says `ready` and triple-faults.
    TripleFault,
    /// Says `ready`, then back whatever it is told, until it is told `q`: then it powers off.
    Echo,
    /// Says `ready` and waits for the power button; then it says `pressed` and powers off.
    Button,
    /// Says `ready` and spins without looking at anything.
    Spin,
    /// Says `ready` and halts with interrupts off.
    Halt,
    /// Says `ready` and ejects every device that it is asked to let go of, without driving it.
    Eject,
    /// Says `ready`, drives the disk in PCI slot 1, says `asked` when it has asked for all of
    /// [`WRITES`], and halts.
    Write,
    /// Says `ready`, reads and writes ports and addresses where nothing is, and powers off.
    Wild,
}

/// What [`Payload::Write`] writes: this many times 4096 bytes, 64 KiB apart, of the byte 1, 2 and so on.
pub const WRITES: usize = 32;

impl Payload {
    /// The machine code, to be entered at its first byte.
    pub fn code(self) -> &'static [u8] {
        let (start, end) = match self {
            Self::PowerOff => (&raw const power_off, &raw const power_off_end),
            Self::Reset => (&raw const reset, &raw const reset_end),
            Self::Remember => (&raw const remember, &raw const remember_end),
            Self::ResetVector => (&raw const reset_vector, &raw const reset_vector_end),
            Self::TripleFault => (&raw const triple_fault, &raw const triple_fault_end),
            Self::Echo => (&raw const echo, &raw const echo_end),
            Self::Button => (&raw const button, &raw const button_end),
            Self::Spin => (&raw const spin, &raw const spin_end),
            Self::Halt => (&raw const halt, &raw const halt_end),
            Self::Eject => (&raw const eject, &raw const eject_end),
            Self::Write => (&raw const write_disk, &raw const write_disk_end),
            Self::Wild => (&raw const wild, &raw const wild_end),
        };
        let len = end as usize - start as usize;
        // SAFETY: both labels are of one contiguous run of code below, which is read-only and
        // lives as long as the program.
        unsafe { std::slice::from_raw_parts(start, len) }
    }
}

macro_rules! labels {
    ($($name:ident),*) => { unsafe extern "C" { $(static $name: u8;)* } };
}
labels!(
    power_off,
    power_off_end,
    reset,
    reset_end,
    triple_fault,
    triple_fault_end
);
labels!(
    reset_vector,
    reset_vector_end,
    echo,
    echo_end,
    button,
    button_end
);
labels!(spin, spin_end, halt, halt_end, wild, wild_end);
labels!(write_disk, write_disk_end);
labels!(eject, eject_end, remember, remember_end);

// S5 is sleep type 5 in `\_S5`; bit 5 of the sleep control register is SLP_EN (ACPI 6.5 §4.8.3.7).
global_asm!(
    r#"
    .macro BEGIN name
    .section .rodata.payload.\name, "a"
    .globl \name
\name:
    .code32
    mov esp, 0x300000
    SAY "ready"
    .endm

    .macro SAY text
    call 2f
    .asciz "\text\r\n"
2:  pop esi
    mov edx, 0x3f8
3:  lodsb
    test al, al
    jz 4f
    out dx, al
    jmp 3b
4:
    .endm

    .macro CONFIG register, value
    mov edx, 0xcf8
    mov eax, 0x80000800 + \register
    out dx, eax
    mov edx, 0xcfc
    mov eax, \value
    out dx, eax
    .endm

    .macro OFF
    mov edx, {sleep}
    mov al, {s5}
    out dx, al
    .endm

    .macro FINISH name
5:  hlt
    jmp 5b
    .globl \name\()_end
\name\()_end:
    .code64
    .previous
    .endm

    BEGIN power_off
    OFF
    FINISH power_off

    BEGIN reset
    mov edx, {reset_port}
    mov al, {reset_value}
    out dx, al
    FINISH reset

    BEGIN remember
    mov edi, 0x500000
    cmp dword ptr [edi], 0
    je 6f
    SAY "used"
6:  mov dword ptr [edi], 1
    mov edx, {reset_port}
    mov al, {reset_value}
    out dx, al
    FINISH remember

    // By a 16-bit code segment, as the SDM (volume 3, 9.9.2) has it.
    BEGIN reset_vector
    call 6f
    .quad 0, 0x00009b000000ffff
6:  push 0xf << 16
    lgdt [esp + 2]
    call 6f
    .code16
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    .byte 0xea, 0xf0, 0xff, 0x00, 0xf0 // jmp 0xf000:0xfff0
    .code32
6:  pop esi
    mov edi, 0x8000
    mov ecx, 32
    rep movsb
    .byte 0xea, 0x00, 0x80, 0x00, 0x00, 0x08, 0x00 // jmp 0x08:0x8000
    FINISH reset_vector

    BEGIN triple_fault
    push 0
    push 0
    lidt [esp]
    ud2
    FINISH triple_fault

    BEGIN echo
6:  mov edx, 0x3fd
    in al, dx
    test al, 1
    jz 6b
    mov edx, 0x3f8
    in al, dx
    out dx, al
    cmp al, 'q'
    jne 6b
    OFF
    FINISH echo

    // The power button is the IOAPIC's pin 5: vector 0x40, whose handler never returns.
    BEGIN button
    call 6f
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
6:  push 0x17 << 16
    lgdt [esp + 2]
    call 6f
    SAY "pressed"
    OFF
7:  hlt
    jmp 7b
6:  pop eax
    mov edi, 0x280000 + 0x40 * 8
    mov [edi], ax
    mov word ptr [edi + 2], 0x08
    shr eax, 16
    mov word ptr [edi + 4], 0x8e00
    mov [edi + 6], ax
    push 0x280000
    push 0x7ff << 16
    lidt [esp + 2]
    mov dword ptr [0xfee000f0], 0x1ff
    mov dword ptr [0xfec00000], 0x1b
    mov dword ptr [0xfec00010], 0
    mov dword ptr [0xfec00000], 0x1a
    mov dword ptr [0xfec00010], 0x40
    SAY "listening"
    sti
9:  hlt
    jmp 9b
    FINISH button

    BEGIN spin
6:  jmp 6b
    FINISH spin

    // Hot-plug's registers: removals that are asked for at 4, ejections at 8.
    BEGIN eject
6:  mov edx, {hot_plug} + 4
    in eax, dx
    test eax, eax
    jz 6b
    mov edx, {hot_plug} + 8
    out dx, eax
    jmp 6b
    FINISH eject

    BEGIN halt
    cli
    FINISH halt

    // Virtio 1.2, 3.1.1 and 4.1.4.3: BAR 0 goes to the start of the bus's window. The queue has its
    // descriptors at 6 MiB, and the available and the used ring in the two pages behind them.
    BEGIN write_disk
    cld
    CONFIG 0x10, 0xc0000000
    CONFIG 0x14, 0
    CONFIG 0x04, 6
    mov ebx, 0xc0000000
    mov byte ptr [ebx + 0x14], 3
    mov dword ptr [ebx + 0x08], 1
    mov dword ptr [ebx + 0x0c], 1
    mov dword ptr [ebx + 0x08], 0
    mov dword ptr [ebx + 0x0c], 0x200
    mov byte ptr [ebx + 0x14], 0xb
    mov word ptr [ebx + 0x18], 2 * {writes}
    mov dword ptr [ebx + 0x20], 0x600000
    mov dword ptr [ebx + 0x28], 0x601000
    mov dword ptr [ebx + 0x30], 0x602000
    mov word ptr [ebx + 0x1c], 1
    mov byte ptr [ebx + 0x14], 0xf
    xor ecx, ecx
6:  mov edi, ecx
    shl edi, 13
    add edi, 0x610000
    mov esi, ecx
    shl esi, 5
    add esi, 0x600000
    mov [esi], edi
    mov dword ptr [esi + 8], 16 + 4096
    lea eax, [ecx * 2 + 1]
    mov word ptr [esi + 12], 1
    mov [esi + 14], ax
    lea eax, [ecx + 0x604000]
    mov [esi + 16], eax
    mov dword ptr [esi + 24], 1
    mov dword ptr [esi + 28], 2
    lea eax, [ecx * 2]
    mov [ecx * 2 + 0x601004], ax
    mov dword ptr [edi], 1
    mov eax, ecx
    shl eax, 7
    mov [edi + 8], eax
    add edi, 16
    inc ecx
    mov al, cl
    push ecx
    mov ecx, 4096
    rep stosb
    pop ecx
    cmp ecx, {writes}
    jb 6b
    mov word ptr [0x601002], {writes}
    mov word ptr [ebx + 0x4000], 0
    SAY "asked"
    FINISH write_disk

    BEGIN wild
    mov edx, 0x9000
6:  mov eax, edx
    out dx, al
    out dx, ax
    out dx, eax
    in al, dx
    in ax, dx
    in eax, dx
    add edx, 0x777
    cmp edx, 0xffff
    jbe 6b
    mov edx, 0xffff
    in eax, dx
    out dx, eax
    mov edi, 0xd0000000
    mov ecx, 64
7:  mov [edi], eax
    mov [edi + 1], ax
    mov ebx, [edi]
    mov bl, [edi + 3]
    add edi, 0x1234567
    loop 7b
    mov eax, [0xfffffffc]
    SAY "unharmed"
    OFF
    FINISH wild
    "#,
    writes = const WRITES,
    sleep = const layout::ACPI_POWER,
    s5 = const (AcpiPower::S5 << AcpiPower::SLEEP_TYPE_SHIFT) | AcpiPower::SLEEP_ENABLE,
    reset_port = const layout::ACPI_POWER as u64 + AcpiPower::RESET,
    reset_value = const AcpiPower::RESET_VALUE,
    hot_plug = const strata::arch::HOT_PLUG_PORT,
);
