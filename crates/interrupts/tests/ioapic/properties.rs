//! Random sequences, weighted towards a few pins and vectors so that they meet.

use proptest::prelude::*;

use crate::sequence::run;

fn step() -> impl Strategy<Value = [u8; 6]> {
    let register = prop_oneof![0x10u8..0x16, 0x3cu8..0x40, any::<u8>()];
    let vector = prop_oneof![Just(0x30u8), Just(0x31u8), any::<u8>()];
    let mode = prop_oneof![Just(0u8), Just(0x80u8), any::<u8>()];
    let pin = prop_oneof![0u8..3, 22u8..25, any::<u8>()];
    prop_oneof![
        3 => register.prop_map(|register| [0, register, 0, 0, 0, 0]),
        4 => (vector.clone(), mode, 0u8..2, prop_oneof![Just(0), any::<u8>()])
            .prop_map(|(vector, mode, mask, top)| [1, 0, vector, mode, mask, top]),
        4 => (pin, 0u8..2).prop_map(|(pin, level)| [3, pin, level, 0, 0, 0]),
        2 => (prop_oneof![Just(2u8), Just(4u8)], vector)
            .prop_map(|(what, vector)| [what, 0, vector, 0, 0, 0]),
        1 => any::<[u8; 6]>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_models_agree(steps in prop::collection::vec(step(), 0..200)) {
        run(&steps.concat());
    }

    #[test]
    fn both_models_agree_on_noise(input in prop::collection::vec(any::<u8>(), 0..600)) {
        run(&input);
    }
}
