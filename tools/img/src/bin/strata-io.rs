//! `strata-io`: exercises disk images with qemu-io's commands.

fn main() -> std::process::ExitCode {
    strata_img::run(strata_img::io::main)
}
