//! Whole images, read by a reader of their own.

#![allow(clippy::unwrap_used)] // A failed step is a failed test.

use std::fs::OpenOptions;
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;

use strata_cloud_init::test_utils::{View, read};
use strata_cloud_init::{Error, LABEL, MAX_FILE, MetaData, Seed};

#[test]
fn every_view_shows_the_same_files() {
    // Files of several sectors, of one, and of one byte more: each moves those behind it.
    let large = b"#cloud-config\n".repeat(1000);
    let network = b"version: 2\n".repeat(500);
    let seed = Seed {
        user_data: &large,
        meta_data: MetaData::Given(&large[..2049]),
        network_config: Some(&network),
    };
    let image = seed.build().unwrap();
    let views = [View::Plain, View::RockRidge, View::Joliet].map(|v| read(&image, v).unwrap());
    for volume in &views {
        assert_eq!(volume.label, LABEL);
        let contents: Vec<_> = volume.files.values().map(Vec::as_slice).collect();
        assert_eq!(contents, [&large[..2049], &network, &large]);
    }
    let names = |view: usize| views[view].files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(0),
        ["META_DATA.;1", "NETWORK_CONFIG.;1", "USER_DATA.;1"]
    );
    assert_eq!(names(1), ["meta-data", "network-config", "user-data"]);
    assert_eq!(names(2), names(1));
}

#[test]
fn without_a_network_there_is_no_file_of_it() {
    let image = Seed::new(b"#cloud-config\n").build().unwrap();
    let volume = read(&image, View::RockRidge).unwrap();
    assert_eq!(volume.files.len(), 2);
    assert_eq!(image.len() % 2048, 0);
}

#[test]
fn sizes_are_bounded() {
    let large = vec![b'#'; MAX_FILE + 1];
    let too_large = |seed: Seed<'_>, which: &str| {
        let error = seed.build().unwrap_err();
        assert!(
            matches!(error, Error::TooLarge { name, .. } if name == which),
            "{error}"
        );
    };
    let small = Seed::new(b"#!");
    too_large(Seed::new(&large), "user-data");
    too_large(
        Seed {
            meta_data: MetaData::Given(&large),
            ..small
        },
        "meta-data",
    );
    too_large(
        Seed {
            network_config: Some(&large),
            ..small
        },
        "network-config",
    );
    let largest = Seed::new(&large[1..]).build().unwrap();
    let volume = read(&largest, View::Joliet).unwrap();
    assert_eq!(volume.files["user-data"].len(), MAX_FILE);
}

#[test]
fn a_host_name_can_not_carry_yaml() {
    for name in ["a\"\nusers: []", "", "-a", "a b"] {
        let seed = Seed {
            meta_data: MetaData::Hostname(name),
            ..Seed::new(b"#!")
        };
        assert!(matches!(seed.build(), Err(Error::Hostname(n)) if n == name));
    }
}

#[test]
fn a_memory_file_is_the_image_and_stays_it() {
    let seed = Seed::new(b"#cloud-config\n");
    let mut file = seed.to_memfd().unwrap();
    let image = seed.build().unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == image);
    assert!(file.write_all(b"x").is_err());
    assert!(file.set_len(0).is_err());
    assert!(file.set_len(1 << 20).is_err());
    // Not through another descriptor either.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let other = OpenOptions::new().write(true).open(path);
    assert!(other.and_then(|mut other| other.write_all(b"x")).is_err());
}

#[test]
fn a_writer_that_fails_is_reported() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let seed = Seed::new(b"#cloud-config\n");
    assert!(matches!(seed.write_to(&mut Full), Err(Error::Write(_))));
    let mut bytes = Vec::new();
    seed.write_to(&mut bytes).unwrap();
    assert!(bytes == seed.build().unwrap());
}
