//! Touches that a primary has answered, and that its replicas may not have yet.
//!
//! A receipt that is dropped asks for no proof, so a failover could lose the touch. This process remembers it until the
//! replicas have it, and [`resend`](super::resend) sends it again to the primary that comes after. A touch only moves a time
//! on, so that does no harm where nothing was lost.
//!
//! Touches that [`soon`](super::soon) collects lie here too until they are sent: whoever sets an exact time has to forget them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::proof::{Link, Sent};
use crate::key::SessionKey;

/// The most keys that are remembered.
const MAX_KEYS: usize = 1 << 16;
/// The most bytes of theirs, about.
const MAX_BYTES: usize = 16 << 20;
/// What one takes beside its name, about.
const BESIDE: usize = 128;
/// After so many touches at least those are forgotten that the replicas have.
const SWEEP: usize = 1024;

/// A time that was set, and where it was sent.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) time: i64,
    sent: Sent,
}

/// What was set of an entry.
#[derive(Debug, Clone)]
pub(super) struct Touched {
    pub(super) updated: Set,
    /// A message sets this too.
    pub(super) interaction: Option<Set>,
}

impl Touched {
    fn parts(&self) -> impl Iterator<Item = &Sent> {
        [Some(&self.updated), self.interaction.as_ref()].into_iter().flatten().map(|set| &set.sent)
    }

    /// The replicas have it.
    fn is_kept(&self) -> bool {
        self.parts().all(Sent::is_replicated)
    }

    /// It went to a primary that cannot prove it any more, or that is not `node`.
    pub(super) fn is_gone(&self, node: Option<&str>) -> bool {
        self.parts().any(|sent| !sent.is_replicated() && (sent.link.is_lost() || Some(sent.link.node()) != node))
    }
}

#[derive(Debug)]
struct All {
    touched: HashMap<SessionKey, Touched>,
    bytes: usize,
    /// So many touches until the next sweep.
    sweep_in: usize,
    /// Those that are on their way again.
    sending: HashSet<SessionKey>,
    /// Those whose time is set just now, and by how many.
    held: HashMap<SessionKey, usize>,
    /// Those that are to be sent, and what they take.
    collected: HashMap<SessionKey, i64>,
    collected_bytes: usize,
}

impl Default for All {
    fn default() -> Self {
        let (touched, sending, held, collected) = (HashMap::new(), HashSet::new(), HashMap::new(), HashMap::new());
        Self { touched, bytes: 0, sweep_in: SWEEP, sending, held, collected, collected_bytes: 0 }
    }
}

impl All {
    fn put(&mut self, key: &SessionKey, new: Touched) -> bool {
        if let Some(old) = self.touched.get_mut(key) {
            // The later time covers the earlier one.
            if new.updated.time >= old.updated.time {
                old.updated = new.updated;
            }
            if let Some(new) = new.interaction
                && old.interaction.as_ref().is_none_or(|old| new.time >= old.time)
            {
                old.interaction = Some(new);
            }
            return true;
        }
        let bytes = key.as_str().len() + BESIDE;
        if self.touched.len() >= MAX_KEYS || self.bytes + bytes > MAX_BYTES {
            return false;
        }
        self.bytes += bytes;
        self.touched.insert(key.clone(), new);
        true
    }

    fn remove(&mut self, key: &SessionKey) {
        if self.touched.remove(key).is_some() {
            self.bytes = self.bytes.saturating_sub(key.as_str().len() + BESIDE);
        }
        if self.collected.remove(key).is_some() {
            self.collected_bytes = self.collected_bytes.saturating_sub(key.as_str().len() + BESIDE);
        }
    }

    fn collect(&mut self, key: &SessionKey, time: i64) {
        if let Some(before) = self.collected.get_mut(key) {
            *before = time.max(*before);
            return;
        }
        self.collected_bytes += key.as_str().len() + BESIDE;
        self.collected.insert(key.clone(), time);
    }

    /// Forgets what the replicas have, and returns the connections that have yet to prove something.
    fn sweep(&mut self) -> Vec<Arc<Link>> {
        let (mut bytes, mut links) = (0, Vec::<Arc<Link>>::new());
        self.touched.retain(|key, touched| {
            if touched.is_kept() {
                return false;
            }
            bytes += key.as_str().len() + BESIDE;
            for sent in touched.parts() {
                if !links.iter().any(|link| Arc::ptr_eq(link, &sent.link)) {
                    links.push(Arc::clone(&sent.link));
                }
            }
            true
        });
        self.bytes = bytes;
        self.sweep_in = SWEEP.max((MAX_KEYS - self.touched.len().min(MAX_KEYS)) / 4);
        links
    }
}

/// The touches of this process that its primaries' replicas may not have.
#[derive(Debug, Default)]
pub(super) struct Owed {
    all: Mutex<All>,
    /// Some are not on their way any more.
    arrived: Condvar,
    resending: Mutex<()>,
    sending_collected: Mutex<()>,
}

/// A key whose time is set: until this is dropped no touch of it is sent again, and none is on its way.
pub(super) struct Held<'a> {
    owed: &'a Owed,
    key: SessionKey,
}

impl Held<'_> {
    /// The time was set: a touch before it counts no more.
    pub(super) fn forget(&self) {
        self.owed.all.lock().remove(&self.key);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut all = self.owed.all.lock();
        if let Some(count) = all.held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                all.held.remove(&self.key);
            }
        }
    }
}

/// Touches that are on their way, or again, until this is dropped.
pub(super) struct Sending<'a, T> {
    owed: &'a Owed,
    pub(super) touched: Vec<(SessionKey, T)>,
}

impl<T> Drop for Sending<'_, T> {
    fn drop(&mut self) {
        let mut all = self.owed.all.lock();
        for (key, _) in &self.touched {
            all.sending.remove(key);
        }
        drop(all);
        self.owed.arrived.notify_all();
    }
}

impl Owed {
    /// Remembers a touch that was answered. False if there is no room.
    pub(super) fn note(&self, key: &SessionKey, time: i64, is_message: bool, sent: Sent) -> bool {
        let set = Set { time, sent };
        let interaction = is_message.then(|| set.clone());
        let mut all = self.all.lock();
        let has_room = all.put(key, Touched { updated: set, interaction });
        let links = match all.sweep_in.checked_sub(1) {
            Some(left) => {
                all.sweep_in = left;
                Vec::new()
            }
            None => all.sweep(),
        };
        drop(all);
        links.iter().for_each(|link| link.ask_soon());
        has_room
    }

    /// An exact time is to be set. A touch that is on its way again arrives first, or it would move that on.
    pub(super) fn hold(&self, key: &SessionKey) -> Held<'_> {
        let mut all = self.all.lock();
        *all.held.entry(key.clone()).or_default() += 1;
        while all.sending.contains(key) {
            self.arrived.wait(&mut all);
        }
        drop(all);
        Held { owed: self, key: key.clone() }
    }

    /// How many are remembered, or are to be sent.
    pub(super) fn len(&self) -> u64 {
        let all = self.all.lock();
        (all.touched.len() + all.collected.len()) as u64
    }

    /// One at a time sends them again.
    pub(super) fn resending(&self) -> MutexGuard<'_, ()> {
        self.resending.lock()
    }

    /// Asks for proofs of what is remembered, without waiting for them, and returns what has to be sent again. `node` says
    /// which primary a key has now.
    pub(super) fn gone(&self, node: impl Fn(&SessionKey) -> Option<String>) -> Vec<(SessionKey, Touched)> {
        let mut all = self.all.lock();
        let links = all.sweep();
        let of = |(key, touched): (&SessionKey, &Touched)| {
            touched.is_gone(node(key).as_deref()).then(|| (key.clone(), touched.clone()))
        };
        let gone = all.touched.iter().filter_map(of).collect();
        drop(all);
        links.iter().for_each(|link| link.ask_soon());
        gone
    }

    /// Where those were sent that the replicas may not have, the last one of each connection. A key whose time is set just now is
    /// left to whoever sets it.
    pub(super) fn unproven(&self) -> Vec<Sent> {
        let all = self.all.lock();
        let mut last = Vec::<Sent>::new();
        for (_, touched) in all.touched.iter().filter(|(key, _)| !all.held.contains_key(*key)) {
            for sent in touched.parts().filter(|sent| !sent.is_replicated()) {
                match last.iter_mut().find(|last| Arc::ptr_eq(&last.link, &sent.link)) {
                    Some(last) => last.batch = last.batch.max(sent.batch),
                    None => last.push(sent.clone()),
                }
            }
        }
        last
    }

    /// Those of them that are to be sent now. Others were forgotten since, or their time is set just now.
    pub(super) fn begin_sending(&self, gone: &[(SessionKey, Touched)]) -> Sending<'_, Touched> {
        let mut all = self.all.lock();
        let mut touched = gone.to_vec();
        touched.retain(|(key, _)| all.touched.contains_key(key) && !all.held.contains_key(key));
        all.sending.extend(touched.iter().map(|(key, _)| key.clone()));
        drop(all);
        Sending { owed: self, touched }
    }

    /// Collects a touch that is to be sent. False if there is no room.
    pub(super) fn collect(&self, key: &SessionKey, time: i64) -> bool {
        let mut all = self.all.lock();
        let is_full = all.collected.len() >= MAX_KEYS || all.collected_bytes >= MAX_BYTES;
        if is_full && !all.collected.contains_key(key) {
            return false;
        }
        all.collect(key, time);
        true
    }

    /// Whether a touch of this was collected that no node has answered yet.
    pub(super) fn is_collected(&self, key: &SessionKey) -> bool {
        let all = self.all.lock();
        all.collected.contains_key(key) || all.sending.contains(key)
    }

    /// One at a time sends what was collected.
    pub(super) fn sending_collected(&self) -> MutexGuard<'_, ()> {
        self.sending_collected.lock()
    }

    /// Takes what was collected, to send it. A key whose time is set just now waits until it is.
    pub(super) fn take_collected(&self) -> Sending<'_, i64> {
        let mut all = self.all.lock();
        let (mut touched, mut left) = (Vec::with_capacity(all.collected.len()), Vec::new());
        for (key, time) in std::mem::take(&mut all.collected) {
            if all.held.contains_key(&key) { left.push((key, time)) } else { touched.push((key, time)) }
        }
        all.collected_bytes = 0;
        left.iter().for_each(|(key, time)| all.collect(key, *time));
        all.sending.extend(touched.iter().map(|(key, _)| key.clone()));
        drop(all);
        Sending { owed: self, touched }
    }

    /// They have not arrived, and are to be sent again. Call it while they count as on their way.
    pub(super) fn collect_again(&self, touched: &[(SessionKey, i64)]) {
        let mut all = self.all.lock();
        touched.iter().for_each(|(key, time)| all.collect(key, *time));
    }

    /// Whether there is anything to be sent.
    pub(super) fn has_collected(&self) -> bool {
        !self.all.lock().collected.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::super::proof::{Needs, Nobody, Way};
    use super::*;

    fn sent() -> Sent {
        let way: Weak<dyn Way> = Weak::<Nobody>::new();
        Sent { link: Arc::new(Link::new("a:1".into(), way, &Needs::new("t".into(), true, 0))), batch: 1 }
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let (owed, sent) = (Owed::default(), sent());
        let key = |n: usize| SessionKey::new(format!("{n}")).unwrap();
        let kept = (0..MAX_KEYS + 10).filter(|n| owed.note(&key(*n), 1, false, sent.clone())).count();
        assert_eq!((kept, owed.len()), (MAX_KEYS, MAX_KEYS as u64));
        // One that is there needs none.
        assert!(owed.note(&key(0), 2, true, sent.clone()));
        let owed = Owed::default();
        let long = |n: usize| SessionKey::new(format!("{n}{}", "x".repeat(400))).unwrap();
        let kept = (0..MAX_KEYS).filter(|n| owed.note(&long(*n), 1, false, sent.clone())).count();
        assert!(kept * (400 + BESIDE) <= MAX_BYTES && kept > MAX_BYTES / 600, "{kept}");
        // What goes makes room.
        owed.hold(&long(0)).forget();
        assert!(owed.note(&long(MAX_KEYS), 1, false, sent));
    }

    #[test]
    fn the_later_time_is_remembered_and_a_message_beside_it() {
        let (owed, sent) = (Owed::default(), sent());
        let key = SessionKey::new("a").unwrap();
        for (time, is_message) in [(5, true), (9, false), (7, true), (6, false)] {
            owed.note(&key, time, is_message, sent.clone());
        }
        // Its primary is the one that it was sent to.
        assert!(owed.gone(|_| Some("a:1".into())).is_empty());
        let gone = owed.gone(|_| Some("b:1".into()));
        let times = |touched: &Touched| (touched.updated.time, touched.interaction.as_ref().map(|set| set.time));
        assert_eq!(gone.iter().map(|(_, touched)| times(touched)).collect::<Vec<_>>(), [(9, Some(7))]);
        assert_eq!(owed.len(), 1);
    }

    #[test]
    fn a_time_that_is_set_waits_for_a_touch_that_is_on_its_way() {
        let (owed, sent) = (Owed::default(), sent());
        let key = SessionKey::new("a").unwrap();
        owed.note(&key, 5, false, sent);
        let gone = owed.gone(|_| Some("b:1".into()));
        let held = owed.hold(&key);
        assert!(owed.begin_sending(&gone).touched.is_empty(), "its time is set");
        drop(held);
        let sending = owed.begin_sending(&gone);
        assert_eq!(sending.touched.len(), 1);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let held = owed.hold(&key);
                tell.send("set").unwrap();
                held.forget();
            });
            // It waits already, or does not begin before this ends.
            while !owed.all.lock().held.contains_key(&key) {
                std::thread::yield_now();
            }
            assert!(told.try_recv().is_err());
            drop(sending);
            assert_eq!(told.recv(), Ok("set"));
        });
        assert!(owed.begin_sending(&gone).touched.is_empty(), "it is forgotten");
    }
}
