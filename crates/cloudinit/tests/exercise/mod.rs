//! What the fuzz target and the stored corpus do with an input.

use strata_cloud_init::test_utils::{View, read};
use strata_cloud_init::{MetaData, Seed};

/// Cuts an input into a seed's parts, and checks that every reader finds them again.
///
/// The first byte says what the seed has, and the next two where user-data and meta-data end, as
/// parts of 256.
pub(crate) fn exercise(data: &[u8]) {
    let Some(([flags, first, second], rest)) = data.split_first_chunk() else {
        return;
    };
    let (user_data, rest) = rest.split_at(rest.len() * usize::from(*first) / 256);
    let (meta_data, network) = rest.split_at(rest.len() * usize::from(*second) / 256);
    let name = String::from_utf8_lossy(meta_data);
    let seed = Seed {
        user_data,
        meta_data: match flags % 3 {
            0 => MetaData::Derived,
            1 => MetaData::Hostname(&name),
            _ => MetaData::Given(meta_data),
        },
        network_config: (flags & 4 != 0).then_some(network),
    };
    for warning in seed.warnings() {
        assert!(warning.to_string().len() < 500);
    }
    let Ok(image) = seed.build() else { return };
    assert_eq!(image.len() % 2048, 0);
    assert_eq!(seed.build().ok().as_ref(), Some(&image));
    for view in [View::RockRidge, View::Joliet] {
        let Some(volume) = read(&image, view) else {
            panic!("{view:?} does not read");
        };
        assert_eq!(volume.label, "cidata");
        assert_eq!(volume.files["user-data"], user_data);
        assert_eq!(
            volume.files.get("network-config").map(Vec::as_slice),
            seed.network_config
        );
        match seed.meta_data {
            MetaData::Given(given) => assert_eq!(volume.files["meta-data"], given),
            _ => assert!(volume.files["meta-data"].starts_with(b"instance-id: \"iid-")),
        }
    }
    // The reader takes any bytes too.
    let mut broken = image;
    let at = usize::from(*first) * 256 + usize::from(*second);
    if let Some(byte) = broken.get_mut(16 * 2048 + at) {
        *byte ^= flags | 1;
    }
    for view in [View::Plain, View::RockRidge, View::Joliet] {
        let _ = read(&broken, view);
    }
}
