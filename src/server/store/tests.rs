//! What is kept outlives whoever kept it.

use super::*;

#[tokio::test]
async fn each_process_speaks_in_a_higher_incarnation_whatever_its_clock_says() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(Some(folder.path())).unwrap().0;
    let (one, other) = (open(), open());
    assert_eq!(one.incarnation(100).await, Ok(100));
    // The clock of the one that takes its place is behind, and so it stays.
    assert_eq!(other.incarnation(90).await, Ok(101));
    assert_eq!(one.incarnation(95).await, Ok(102));
    assert_eq!(open().incarnation(500).await, Ok(500));
}
