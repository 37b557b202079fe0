//! `strata-img`: makes, changes and examines disk images with qemu-img's command line.

fn main() -> std::process::ExitCode {
    strata_img::run(strata_img::img::main)
}
