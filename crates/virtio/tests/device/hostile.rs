use strata_virtio::test_utils::hostile_suite;

use crate::echo::Echo;

#[test]
fn what_no_driver_may_do_breaks_the_device_and_no_more() {
    let outcomes = hostile_suite(|| Box::new(Echo::new()));
    assert!(outcomes.len() > 80);
    for outcome in outcomes {
        assert_eq!(outcome.broken, outcome.must_break, "{outcome:?}");
    }
}
