use cloakroom::*;
use std::time::Instant;
#[test]
fn probe() {
    let n: usize = std::env::var("N").map(|n| n.parse().unwrap()).unwrap_or(1000);
    let touches: usize = std::env::var("T").map(|n| n.parse().unwrap()).unwrap_or(1000);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let clock = ManualClock::new(Timestamp::from_micros(1_700_000_000_000_000));
    let open = |create| SessionStore::open(Options::new(&path).create(create).clock(clock.clone())).unwrap();
    let store = open(true);
    let t = Instant::now();
    let keys: Vec<SessionKey> = (0..n)
        .map(|i| {
            let s = SessionSource {
                platform: "discord".into(),
                chat_type: "group".into(),
                chat_id: Some(format!("{:019}", (i as u64).wrapping_mul(0x9E3779B97F4A7C15) >> 1)),
                user_id: Some(format!("{:018}", i)),
                user_name: Some("some name of a user".into()),
                chat_name: Some("a chat name / #with-channel".into()),
                ..Default::default()
            };
            store.resolve(&s).unwrap().entry.key
        })
        .collect();
    store.flush().unwrap();
    eprintln!("create {n}: {:?} {:.0}/s", t.elapsed(), n as f64 / t.elapsed().as_secs_f64());
    let mut x = 12345u64;
    for (name, adv) in [("same bucket", 0), ("crossing", 61)] {
        for _ in 0..3 {
            let t = Instant::now();
            clock.advance(std::time::Duration::from_secs(adv));
            for _ in 0..touches {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                store.touch(&keys[(x >> 33) as usize % n]).unwrap();
            }
            store.flush().unwrap();
            eprintln!("touch {name}: {:?} {:.0}/s", t.elapsed(), touches as f64 / t.elapsed().as_secs_f64());
        }
    }
    let t = Instant::now();
    for k in keys.iter().take(100000) {
        assert!(store.get(k).unwrap().is_some());
    }
    eprintln!("get {:?}", t.elapsed() / n.min(100000) as u32);
    let t = Instant::now();
    let v = store.verify().unwrap();
    eprintln!("verify {:?} {:?}", t.elapsed(), v);
    assert!(v.violations.is_empty());
    eprintln!("{:?}", store.stats().unwrap());
    store.close().unwrap();
    drop(store);
    let t = Instant::now();
    let store = open(false);
    eprintln!("open {:?} {:?} {}", t.elapsed(), store.open_report(), store.len());
    assert_eq!(store.len() as usize, n);
    eprintln!(
        "{}",
        std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS"))
            .collect::<Vec<_>>()
            .join(" ")
    );
}
