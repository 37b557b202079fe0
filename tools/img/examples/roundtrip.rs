//! Makes an image, writes to it, converts it with `strata-img convert`, and reads it back.

use strata_img::disk::{Flags, Format, create, open_name};
use strata_img::img;
use strata_img::options::{Values, create_table};
use strata_img::report::{self, Failure, Outcome};

fn roundtrip(dir: &str) -> Outcome<()> {
    let (disk, packed) = (format!("{dir}/disk.qcow2"), format!("{dir}/packed.qcow2"));
    let mut values = Values::new(create_table(Format::Qcow2, true));
    values.set("size", "64M")?;
    create(&disk, Format::Qcow2, &values)?;

    let image = open_name(&disk, Some("qcow2"), Flags::write())?;
    let written = image
        .write(&[0x5a; 65536], 1 << 20)
        .and_then(|()| image.close());
    written.map_err(|error| Failure::new(error.to_string()))?;
    // An open image is locked against other readers.
    drop(image);

    let line = ["convert", "-c", "-O", "qcow2", &disk, &packed].map(str::to_owned);
    img::main(&line)?;
    img::main(&["info".to_owned(), packed.clone()])?;

    let mut buf = vec![0; 65536];
    let image = open_name(&packed, Some("qcow2"), Flags::read())?;
    image
        .read(&mut buf, 1 << 20)
        .map_err(|error| Failure::new(error.to_string()))?;
    assert!(buf.iter().all(|byte| *byte == 0x5a));
    Ok(())
}

fn main() -> std::process::ExitCode {
    let dir = std::env::temp_dir().join(format!("strata-img-{}", std::process::id()));
    let done = match (std::fs::create_dir_all(&dir), dir.to_str()) {
        (Ok(()), Some(dir)) => roundtrip(dir),
        _ => Err(Failure::new("no temporary directory")),
    };
    let _ = std::fs::remove_dir_all(&dir);
    report::flush();
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => failure.report().into(),
    }
}
