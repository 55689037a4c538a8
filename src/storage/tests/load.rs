//! What batches leave in the trees of a store in the making.

use super::*;
use crate::entry::Extras;

/// An entry with extras, of this id and time.
fn push(batch: &mut Batch, n: usize, id: usize, minute: i64, text: &str, generation: &mut u64) {
    let extras = Extras::from_parts(vec![("x", text)], None);
    let hot = Hot::fresh(Timestamp::from_micros(minute * 60_000_000));
    batch.push(entry(n), &key(n), &hot, cold(id, None), &extras, generation).unwrap();
}

#[test]
fn an_entry_that_a_newer_one_replaces_leaves_no_row() {
    for is_one_batch in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = NewStore::create(&dir.path().join("db"), 1 << 22, false).unwrap();
        let (mut batch, mut generation, mut loaded) = (Batch::default(), 7, Loaded::default());
        for (n, id, minute, bytes) in
            [(1, 1, 5, 9000), (2, 2, 5, 600), (1, 3, 6, 600), (1, 4, 4, 9000), (1, 5, 6, 5000)]
        {
            push(&mut batch, n, id, minute, &format!("\"{}\"", "1".repeat(bytes)), &mut generation);
            if !is_one_batch {
                loaded.add(store.put_batch(&batch).unwrap());
                batch.clear();
            }
        }
        loaded.add(store.put_batch(&batch).unwrap());
        assert_eq!(loaded, Loaded { created: 2, duplicates: 3 });
        assert_eq!(generation, 12);
        store.finish(1, loaded.created).unwrap();

        let opened = open_at(dir.path());
        assert_eq!(violations(&opened.engine), []);
        let trees = &opened.engine.trees;
        assert_eq!(age_rows(trees), 2);
        for tree in [&trees.sessions, &trees.activity, &trees.by_session_id] {
            assert_eq!(tree.len(), 2, "{:?}", String::from_utf8_lossy(&tree.name()));
        }
        let rows = trees.extras.iter().keys().map(|row| ExtrasRow::decode(&row.unwrap()).unwrap());
        let generations: std::collections::BTreeSet<_> = rows.map(|row| row.generation).collect();
        assert_eq!(generations, [8, 11].into());
        assert_eq!(cold_of(&opened.engine, 1).unwrap().session_id, cold(5, None).session_id);
    }
}
