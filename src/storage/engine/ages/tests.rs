//! The pages of the index by age, against a set.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::codec::Fingerprint;
use crate::time::Timestamp;

fn row(n: u16) -> ActivityRow {
    // Several of each time.
    let entry = Fingerprint::from_bytes([u8::try_from(n % 4).unwrap(); 16]);
    ActivityRow { time: Timestamp::from_micros(i64::from(n / 4)), entry }
}

fn tree() -> sled::Tree {
    let db = sled::Config::new().temporary(true).flush_every_ms(None).open().unwrap();
    db.open_tree("by_updated_at").unwrap()
}

fn read(tree: &sled::Tree, range: &AgeRange, order: AgeOrder) -> Vec<ActivityRow> {
    let mut all = Vec::new();
    for page in Pages::of(tree, range, order).unwrap() {
        let mut rows = page.unwrap().rows.unwrap();
        assert!(rows.len() <= AgePage::MAX_ROWS, "{} rows", rows.len());
        if order == AgeOrder::NewestFirst {
            rows.reverse();
        }
        all.extend(rows.into_iter().filter(|row| std::ops::RangeBounds::contains(range, row)));
    }
    all
}

fn all(tree: &sled::Tree) -> BTreeSet<ActivityRow> {
    let everything = (Bound::Unbounded, Bound::Unbounded);
    let rows = read(tree, &everything, AgeOrder::OldestFirst);
    assert!(rows.is_sorted_by(|a, b| a < b));
    let mut back = read(tree, &everything, AgeOrder::NewestFirst);
    back.reverse();
    assert_eq!(rows, back);
    rows.into_iter().collect()
}

#[derive(Debug, Clone)]
struct Step {
    puts: BTreeSet<u16>,
    removals: BTreeSet<u16>,
    /// How many of its writes a crash lets through.
    writes: Option<usize>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Rows together, as new activity is, and rows anywhere.
    let near = (0..600_u16, 0..90_u16).prop_map(|(from, count)| (from..from + count).collect());
    let far = proptest::collection::btree_set(0..700_u16, 0..20);
    let some = prop_oneof![near, far];
    let writes = prop_oneof![2 => Just(None), 1 => (0..4_usize).prop_map(Some)];
    let step = (some.clone(), some, writes).prop_map(|(puts, removals, writes)| Step { puts, removals, writes });
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// A crash between two writes of a put leaves what was there, and perhaps some of what was put; one of a removal leaves
    /// what stays, and perhaps some of what goes. What was put twice or removed twice makes no difference.
    #[test]
    fn pages_are_a_set(steps in steps()) {
        let tree = tree();
        let mut model = BTreeSet::new();
        for Step { puts: new, removals: old, writes: reached } in steps {
            let reached = reached.unwrap_or(usize::MAX);
            let new: Vec<_> = new.into_iter().map(row).collect();
            write(&tree, puts(&tree, &new).unwrap().into_iter().take(reached).collect()).unwrap();
            let found = all(&tree);
            let wanted: BTreeSet<_> = model.iter().chain(&new).copied().collect();
            prop_assert!(model.is_subset(&found) && found.is_subset(&wanted));
            prop_assert!(reached < usize::MAX || found == wanted);

            model = found;
            let old: Vec<_> = old.into_iter().map(row).collect();
            write(&tree, removals(&tree, &old).unwrap().into_iter().take(reached).collect()).unwrap();
            let found = all(&tree);
            let wanted: BTreeSet<_> = model.iter().filter(|row| !old.contains(row)).copied().collect();
            prop_assert!(wanted.is_subset(&found) && found.is_subset(&model));
            prop_assert!(reached < usize::MAX || found == wanted);
            model = found;
        }
        for edge in [0, 1, 99, 350, 699] {
            let edge = row(edge);
            for range in [
                (Bound::Included(edge), Bound::Unbounded),
                (Bound::Excluded(edge), Bound::Unbounded),
                (Bound::Unbounded, Bound::Included(edge)),
                (Bound::Unbounded, Bound::Excluded(edge)),
                (Bound::Included(row(40)), Bound::Excluded(edge)),
            ] {
                let is_range = row(40) <= edge || !matches!(range.0, Bound::Included(from) if from == row(40));
                let wanted: Vec<_> = model
                    .iter()
                    .filter(|row| is_range && std::ops::RangeBounds::contains(&range, *row))
                    .copied()
                    .collect();
                if is_range {
                    prop_assert_eq!(&read(&tree, &range, AgeOrder::OldestFirst), &wanted);
                    let mut back = read(&tree, &range, AgeOrder::NewestFirst);
                    back.reverse();
                    prop_assert_eq!(&back, &wanted);
                }
            }
        }
    }
}

/// New activity fills its pages; a write for each row would be as dear as a row of sled's for each.
#[test]
fn rows_of_one_time_share_their_writes() {
    let tree = tree();
    let mut writes = 0;
    for commit in 0..20 {
        let new: Vec<_> = (commit * 64..(commit + 1) * 64).map(row).collect();
        let planned = puts(&tree, &new).unwrap();
        writes += planned.len();
        write(&tree, planned).unwrap();
    }
    assert_eq!((writes, tree.len()), (40, 40));
    let old: Vec<_> = (0..640).map(row).collect();
    assert_eq!(removals(&tree, &old).unwrap().len(), 20);
}

/// What a page has that cannot be decoded is for a repair. Others of its range get a page behind it.
#[test]
fn a_page_that_does_not_decode_hides_no_new_rows() {
    let tree = tree();
    write(&tree, puts(&tree, &[row(5), row(300)]).unwrap()).unwrap();
    tree.insert(row(100).encode(), b"?").unwrap();
    write(&tree, puts(&tree, &[row(200), row(210)]).unwrap()).unwrap();
    // That one would take its place.
    assert_eq!(puts(&tree, &[row(100)]).unwrap(), []);
    assert!(removals(&tree, &[row(150)]).unwrap().is_empty());
    let pages = Pages::of(&tree, &(Bound::Unbounded, Bound::Unbounded), AgeOrder::OldestFirst).unwrap();
    let rows: Vec<_> = pages.map(|page| page.unwrap().rows.ok()).collect();
    assert_eq!(rows, [Some(vec![row(5)]), None, Some(vec![row(200), row(210)])]);
    assert_eq!(tree.get(row(100).encode()).unwrap().unwrap(), b"?");
}

/// A reader that has come so far meets each row that was there and stays, whatever is written meanwhile.
#[test]
fn what_is_split_meanwhile_is_met() {
    // Minutes apart, so that the keys of pages differ in several bytes, and leaves end anywhere.
    let at =
        |n: i64| ActivityRow { time: Timestamp::from_micros(n * 60_000_000), entry: Fingerprint::from_bytes([7; 16]) };
    let between = |n: i64| ActivityRow { entry: Fingerprint::from_bytes([8; 16]), ..at(n) };
    let old: Vec<_> = (0..2000).map(at).collect();
    let everything = (Bound::Unbounded, Bound::Unbounded);
    for order in [AgeOrder::NewestFirst, AgeOrder::OldestFirst] {
        for come in 0..63 {
            let tree = tree();
            write(&tree, puts(&tree, &old).unwrap()).unwrap();
            let mut pages = Pages::of(&tree, &everything, order).unwrap();
            let mut met: BTreeSet<_> = pages.by_ref().take(come).flat_map(|page| page.unwrap().rows.unwrap()).collect();
            let new: Vec<_> = (0..2000).step_by(20).map(between).collect();
            write(&tree, puts(&tree, &new).unwrap()).unwrap();
            write(&tree, removals(&tree, &new[..50]).unwrap()).unwrap();
            met.extend(pages.flat_map(|page| page.unwrap().rows.unwrap()));
            let missed: Vec<_> = old.iter().filter(|row| !met.contains(row)).collect();
            assert!(missed.is_empty(), "{order:?} after {come} pages: {missed:?}");
        }
    }
}
