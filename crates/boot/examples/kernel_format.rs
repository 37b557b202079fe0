//! Says what a kernel file is and how it would be booted.
//!
//! `cargo run -p strata-boot --example kernel_format -- KERNEL [DENSE]` also writes the dense ELF form to
//! DENSE. Without arguments it inspects a small bzImage that it makes itself.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use strata_boot::Kernel;
use strata_boot::test_utils::BzImageKernel;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let result = match (args.next(), args.next()) {
        (None, _) => inspect_sample(),
        (Some(kernel), dense) => inspect(&kernel, dense.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprint!("{e}");
            let mut source = e.source();
            while let Some(e) = source {
                eprint!(": {e}");
                source = e.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn inspect_sample() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bzImage");
    std::fs::write(&path, BzImageKernel::small().to_bytes())?;
    inspect(&path, None)
}

fn inspect(path: &Path, dense: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let kernel = Kernel::open(path)?;
    println!(
        "file         {} ({} bytes)",
        path.display(),
        std::fs::metadata(path)?.len()
    );
    print_kernel(&kernel)?;
    if kernel.compression()?.is_some() {
        println!("inside");
        print_kernel(&Kernel::open_unpacked(path, None)?)?;
    }
    if let Some(dense) = dense {
        std::fs::write(dense, kernel.to_dense()?)?;
        println!("written      {}", dense.display());
    }
    Ok(())
}

fn print_kernel(kernel: &Kernel) -> Result<(), Box<dyn Error>> {
    match kernel.compression()? {
        Some(compression) => println!("format       bzImage, {} payload", compression.name()),
        None if kernel.is_dense() => println!("format       dense ELF"),
        None => println!("format       ELF"),
    }
    if let Some(version) = kernel.version() {
        println!("version      {version}");
    }
    for protocol in kernel.protocols() {
        println!("entry        {}", protocol.name());
    }
    let needs = kernel.occupies();
    println!("occupies     {:#x} to {:#x}", needs.start, needs.end);
    println!("to load      {} bytes", kernel.loaded_bytes());
    println!("command line at most {} bytes", kernel.limits().cmdline);
    println!("initrd       below {:#x}", kernel.limits().initrd_end);
    Ok(())
}
