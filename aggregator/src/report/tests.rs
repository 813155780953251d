//! Tests of the `report` module.

use super::*;

#[test]
fn numbers_and_digests_are_shown_for_people() {
    assert_eq!(grouped(1_234_567), "1,234,567");
    assert_eq!(shortened("2000000"), "2,000,000");
    assert_eq!(shortened(&"ab".repeat(32)), "abababababababab…");
    assert_eq!(shortened("yes"), "yes");
}
