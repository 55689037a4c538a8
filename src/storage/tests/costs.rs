//! What a write costs, held against its estimate.

use super::*;

/// Bytes that this process has written, by its own account.
fn written() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

#[derive(Default)]
struct Costs {
    estimated: u64,
    /// Bytes written when the last sync was done.
    synced: u64,
    most: u64,
    syncs: u64,
}

/// Not a test: holds the estimated cost of writes against the real one. Run it alone:
/// `cargo test --lib -- --ignored --nocapture costs_of_writes`
#[test]
#[ignore = "a measurement"]
fn costs_of_writes() {
    const ENTRIES: usize = 20_000;
    type Make = fn(usize, usize) -> Change;
    let large: Make = |n, round| {
        let details = Details { display_name: Some("x".repeat(3500)), ..Details::default() };
        let cold = Arc::new(Cold { details, ..cold(n + round, None) });
        let content = Content::Whole { hot: Hot::fresh(later(40)), cold, parts: Parts::new() };
        let n = n * 7 % 500;
        Change { key: key(n), entry: entry(n), content, moved: None, is_another: false, leases: vec![], before: None }
    };
    let kinds: [(&str, usize, Make); 8] = [
        ("touches in their bucket, uniform", 60_000, |n, _| touch(n * 7919 % ENTRIES, NOW)),
        ("touches that cross, uniform", 60_000, |n, round| touch(n * 7919 % ENTRIES, later(round as i64 + 1))),
        ("touches that cross, 100 entries", 60_000, |n, round| touch(n % 100, later(round as i64 + 1))),
        ("new ids", 20_000, |n, round| whole(n * 7919 % ENTRIES, n + round, later(40), None)),
        ("extras of 1 KB, 200 entries", 6_000, |n, _| whole(n * 7 % 200, n, later(40), Some((n as u64 + 100, 1000)))),
        ("extras of 20 KB, 200 entries", 3_000, |n, _| {
            whole(n * 7 % 200, n, later(40), Some((n as u64 + 10_000, 20_000)))
        }),
        ("extras of 100 KB, 20 entries", 600, |n, _| whole(n % 20, n, later(40), Some((n as u64 + 20_000, 100_000)))),
        ("large details, 500 entries", 10_000, large),
    ];
    for per_commit in [10, 1000] {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open_at(dir.path());
        for n in (0..ENTRIES).step_by(1000) {
            let new: Vec<_> = (n..n + 1000).map(|n| whole(n, n, NOW, None)).collect();
            commit(&mut opened, &new).unwrap();
        }
        for (name, changes, make) in &kinds {
            let costs = Arc::new(Mutex::new(Costs { synced: written(), ..Costs::default() }));
            let seen = Arc::clone(&costs);
            opened.writer.hook = Hook::new(move |engine, cost| {
                let mut seen = seen.lock();
                seen.estimated += cost;
                if cost == 0 {
                    // As the sync is about to do, so that its writes are counted before it.
                    engine.trees.meta.flush().unwrap();
                    let now = written();
                    seen.most = seen.most.max(now - seen.synced);
                    seen.synced = now;
                    seen.syncs += 1;
                }
                Ok(())
            });
            let start = written();
            let changes = changes * per_commit / 1000 + changes / 10;
            for round in 0..changes.div_ceil(per_commit) {
                let first = round * per_commit;
                let mut batch: Vec<_> = (first..first + per_commit).map(|n| make(n, round % 30)).collect();
                batch.sort_by(|a, b| a.key.cmp(&b.key));
                batch.dedup_by(|a, b| a.key == b.key);
                let next = opened.writer.mark().commit + 1;
                opened.writer.apply(&opened.engine, &batch, usize::MAX, |_| {}).unwrap();
                opened.writer.finish(&opened.engine, next).unwrap();
                // With no sync asked for but those of the bound, as in a long stretch where nobody waits.
            }
            opened.writer.sync(&opened.engine).unwrap();
            let (real, costs) = (written() - start, costs.lock());
            println!(
                "{per_commit:5} a commit, {name:34} {:8} B a change, real/estimated {:.2}, {} syncs, at most {} KiB between two",
                real / changes as u64,
                real as f64 / costs.estimated as f64,
                costs.syncs,
                costs.most / 1024,
            );
        }
    }
}
