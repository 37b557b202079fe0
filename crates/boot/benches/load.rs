//! Loading a kernel of 32 MiB, of which a quarter is zeroes, from a file in the page cache.
#![allow(missing_docs, clippy::expect_used)]

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use strata_boot::test_utils::{BzImageKernel, ElfKernel, lz4_stored, with_size};
use strata_boot::{Boot, Cache, Kernel};
use vm_memory::{GuestAddress, GuestMemoryMmap};

const SIZE: usize = 32 << 20;

fn elf() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..SIZE).map(|i| (i / 4096 + i % 251) as u8 | 1).collect();
    bytes[SIZE / 2..SIZE / 4 * 3].fill(0);
    let segments = vec![(16 << 20, bytes, SIZE as u64 + (4 << 20))];
    ElfKernel {
        segments,
        ..ElfKernel::small()
    }
    .to_bytes()
}

fn load(kernel: &Kernel, mem: &GuestMemoryMmap) {
    let boot = Boot {
        kernel,
        command_line: b"quiet",
        initrd: None,
        rsdp: None,
        reserved: &[],
        protocol: None,
    };
    black_box(boot.load(mem).expect("load"));
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 128 << 20)]).expect("memory")
}

fn bench(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("directory");
    let path = |name: &str| dir.path().join(name);
    let elf = elf();
    let payload = with_size(lz4_stored(&elf), elf.len());
    let image = BzImageKernel {
        init_size: 64 << 20,
        ..BzImageKernel::with_payload(payload)
    };
    std::fs::write(path("vmlinux"), &elf).expect("write");
    std::fs::write(path("vmlinuz"), image.to_bytes()).expect("write");
    let cache = Cache::new(path("cache"));

    let mut group = c.benchmark_group("load");
    group
        .throughput(Throughput::Bytes(SIZE as u64))
        .sample_size(10);
    let mut fresh = |name: &str, open: &dyn Fn(&Path) -> Kernel, file: &str| {
        let file = path(file);
        group.bench_function(name, |b| {
            b.iter_batched(
                memory,
                |mem| load(&open(&file), &mem),
                BatchSize::PerIteration,
            );
        });
    };
    fresh(
        "elf as it is",
        &|file| Kernel::open(file).expect("open"),
        "vmlinux",
    );
    fresh(
        "bzImage as it is",
        &|file| Kernel::open(file).expect("open"),
        "vmlinuz",
    );
    let cold = |file: &Path| Kernel::open_unpacked(file, None).expect("open");
    fresh("bzImage unpacked, no cache", &cold, "vmlinuz");
    let warm = |file: &Path| Kernel::open_unpacked(file, Some(&cache)).expect("open");
    fresh("bzImage unpacked, warm cache", &warm, "vmlinuz");
    group.bench_function("open from a warm cache", |b| {
        b.iter(|| warm(&path("vmlinuz")))
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
