//! The state file, and what opening repairs, finds or refuses.

use super::*;

fn state_file(dir: &TempDir) -> (StateFile, PathBuf) {
    let path = dir.path().join("state");
    let there = StateFile::open(path.clone()).unwrap();
    (there.unwrap_or_else(|| StateFile::create(path.clone()).unwrap()), path)
}

fn record(file: &StateFile, mark: Mark) {
    file.note(Left { state: State::Open, synced: Some(7), mark: Some(mark) }).unwrap();
}

fn damage(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_torn_slot_gives_the_state_before() {
    let dir = tempfile::tempdir().unwrap();
    let (file, path) = state_file(&dir);
    assert!(StateFile::open(path.clone()).unwrap().unwrap().is_blank());
    let marks = [3, 4, 5].map(|commit| Mark { commit, count: 10 * commit });
    for mark in marks {
        record(&file, mark);
    }
    let found = || state_file(&dir).0.found();
    assert_eq!(found(), Left { state: State::Open, synced: Some(7), mark: Some(marks[2]) });
    // The third mark has sequence 3 and so the second slot; each of its bytes counts.
    let whole = fs::read(&path).unwrap();
    for at in 0..52 {
        damage(&path, 512 + at);
        assert_eq!(found().mark, Some(marks[1]), "byte {at}");
        fs::write(&path, &whole).unwrap();
    }
    fs::write(&path, &whole[..512 + 20]).unwrap();
    let (file, _) = state_file(&dir);
    assert_eq!(file.found().mark, Some(marks[1]));
    // The next one goes over the torn one, and not over the good one.
    record(&file, marks[2]);
    assert_eq!(fs::read(&path).unwrap()[..56], whole[..56]);
    assert_eq!(found().mark, Some(marks[2]));
}

#[test]
fn two_torn_slots_are_damage_and_an_empty_file_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (file, path) = state_file(&dir);
    for commit in [1, 2] {
        record(&file, Mark { commit, count: 0 });
    }
    damage(&path, 9);
    damage(&path, 512 + 33);
    let (file, _) = state_file(&dir);
    assert!(file.found().mark.is_none() && file.is_damaged());
    fs::write(&path, b"").unwrap();
    let (file, _) = state_file(&dir);
    assert!(file.found().mark.is_none() && !file.is_damaged() && file.is_blank());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to)
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn an_older_database_under_a_newer_state_is_a_shortfall() {
    let dir = tempfile::tempdir().unwrap();
    let sled = dir.path().join("db/sled");
    drop(with_entries(dir.path()));
    copy(&sled, &dir.path().join("older"));
    let mut opened = open_at(dir.path());
    commit(&mut opened, &[whole(7, 7, NOW, None)]).unwrap();
    let synced = opened.writer.mark();
    drop(opened);

    fs::remove_dir_all(&sled).unwrap();
    copy(&dir.path().join("older"), &sled);
    let opened = open_at(dir.path());
    assert_eq!(opened.expected, Some(synced));
    assert_eq!(synced.count, 4);
    assert_eq!((opened.mark.count, opened.mark.commit < synced.commit), (3, true));
    // Numbers go on behind the lost ones, so that none is used twice.
    assert!(opened.writer.mark().commit > synced.commit);
    drop(opened);
    // It was reported once. The store goes on from what there is.
    let mut opened = open_at(dir.path());
    assert_eq!(opened.expected, None);
    opened.writer.end_use(&opened.engine).unwrap();
}

#[test]
fn half_snapshots_and_half_databases_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    drop(with_entries(dir.path()));
    let (half, left) = (dir.path().join("db/sled/snap.9.generating"), dir.path().join("db/sled.new-xyz"));
    fs::write(&half, b"half").unwrap();
    fs::create_dir(&left).unwrap();
    fs::write(left.join("db"), b"half").unwrap();
    let opened = open_at(dir.path());
    assert_eq!(opened.mark.count, 3);
    assert!(!half.exists() && !left.exists());
    let told = ["sled.new-xyz", "snap.9.generating", "wrote the database over"];
    assert_eq!(opened.repairs.len(), told.len(), "{:?}", opened.repairs);
    assert!(opened.repairs.iter().zip(told).all(|(repair, told)| repair.contains(told)), "{:?}", opened.repairs);
    assert_eq!(violations(&opened.engine), []);
}

#[test]
fn a_torn_snapshot_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    drop(with_entries(dir.path()));
    drop(open_at(dir.path()));
    let database = dir.path().join("db/sled");
    let snapshot = fs::read_dir(&database).unwrap().map(|entry| entry.unwrap().path());
    let snapshot = snapshot.filter(|path| path.to_str().unwrap().contains("snap.")).max().unwrap();
    let content = fs::read(&snapshot).unwrap();
    fs::write(&snapshot, &content[..content.len() / 2]).unwrap();
    let opened = open_at(dir.path());
    assert_eq!((opened.mark.count, violations(&opened.engine)), (3, vec![]));
    assert!(opened.repairs.iter().any(|repair| repair.contains("aside")), "{:?}", opened.repairs);
}

/// How much of the changes cut short was done nobody knows then.
#[test]
fn changes_cut_short_that_do_not_read_have_the_entries_counted() {
    for is_readable in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = with_entries(dir.path());
        // The state says the same, so nothing else speaks against the count.
        opened.writer.mark.count = 7;
        commit(&mut opened, &[touch(1, later(1))]).unwrap();
        let trees = &opened.engine.trees;
        trees.meta.insert(meta::COUNT, encode_meta(&7_u64).unwrap()).unwrap();
        if !is_readable {
            trees.intent.insert("group", &[9, 9]).unwrap();
        }
        drop(opened);
        let opened = open_at(dir.path());
        assert_eq!(opened.mark.count, if is_readable { 7 } else { 3 });
        let told = opened.repairs.iter().any(|repair| repair.contains("there are 3, and the count was 7"));
        assert_eq!(told, !is_readable, "{:?}", opened.repairs);
    }
}

fn files_below(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// sled would make a new, empty database in the place of a lost one, and everybody would be forgotten.
#[test]
fn a_database_without_its_files_is_damaged() {
    type Fault = fn(&Path);
    let faults: [(&str, Fault); 5] = [
        ("db", |path| fs::remove_file(path.join("db")).unwrap()),
        ("db", |path| fs::write(path.join("db"), b"").unwrap()),
        ("conf", |path| fs::remove_file(path.join("conf")).unwrap()),
        ("conf", |path| fs::write(path.join("conf"), b"").unwrap()),
        ("db", |path| {
            fs::remove_dir_all(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    for (name, fault) in faults {
        let dir = tempfile::tempdir().unwrap();
        drop(with_entries(dir.path()));
        let database = dir.path().join("db/sled");
        fault(&database);
        let before = files_below(&database);
        for _ in 0..2 {
            let error = open(&dir.path().join("db"), true, CACHE, false).unwrap_err();
            assert!(matches!(&error, Error::Damaged { path, .. } if *path == database), "{error:?}");
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains(name) || before.is_empty(), "{cause}");
        }
        assert_eq!(files_below(&database), before, "nothing was changed");
    }
}

#[test]
fn a_database_of_zeros_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    drop(with_entries(dir.path()));
    let file = dir.path().join("db/sled/db");
    let zeros = vec![0; fs::metadata(&file).unwrap().len() as usize];
    fs::write(&file, &zeros).unwrap();
    let error = open(&dir.path().join("db"), true, CACHE, false).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
}

#[test]
fn another_format_is_refused() {
    let refused = |format: u32| {
        let dir = tempfile::tempdir().unwrap();
        let opened = with_entries(dir.path());
        opened.engine.trees.meta.insert(meta::FORMAT, encode_meta(&format).unwrap()).unwrap();
        drop(opened);
        let path = dir.path().join("db");
        let error = open(&path, false, CACHE, false).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        error
    };
    let newer = refused(FORMAT + 1);
    assert!(matches!(newer, Error::NewerFormat { found: 6, supported: FORMAT, .. }), "{newer:?}");
    let older = refused(FORMAT - 1);
    assert!(matches!(older, Error::OlderFormat { found: 4, supported: FORMAT, .. }), "{older:?}");
}
