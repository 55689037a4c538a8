//! Touches that a primary has answered, and that its replicas may not have yet.
//!
//! A receipt that is dropped asks for no proof, so a failover could lose the touch. This process remembers it until the
//! replicas have it, and [`resend`](super::resend) sends it again to the primary that comes after. A touch only moves a time
//! on, so that does no harm where nothing was lost.
//!
//! Touches that [`soon`](super::soon) collects lie here too until they are sent: whoever sets an exact time has to forget them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::collected::{BESIDE, Collected, MAX_BYTES, MAX_KEYS, Touch};
use super::proof::{Link, Sent};
use crate::fork;
use crate::key::SessionKey;

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
    /// Nothing where it was set exactly since.
    pub(super) updated: Option<Set>,
    /// A message sets this too.
    pub(super) interaction: Option<Set>,
}

impl Touched {
    fn parts(&self) -> impl Iterator<Item = &Sent> {
        [&self.updated, &self.interaction].into_iter().flatten().map(|set| &set.sent)
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
    /// Those that are on their way, or again, and how often.
    sending: HashMap<SessionKey, usize>,
    /// Those whose time is set just now, and by how many.
    held: HashMap<SessionKey, usize>,
    /// Those that are to be sent.
    collected: Collected,
}

impl Default for All {
    fn default() -> Self {
        let (touched, sending, held, collected) =
            (HashMap::new(), HashMap::new(), HashMap::new(), Collected::default());
        Self { touched, bytes: 0, sweep_in: SWEEP, sending, held, collected }
    }
}

impl All {
    fn put(&mut self, key: &SessionKey, new: Touched) -> bool {
        if let Some(old) = self.touched.get_mut(key) {
            // The later time covers the earlier one.
            for (old, new) in [(&mut old.updated, new.updated), (&mut old.interaction, new.interaction)] {
                if let Some(new) = new
                    && old.as_ref().is_none_or(|old| new.time >= old.time)
                {
                    *old = Some(new);
                }
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

    /// What was set exactly is not to be moved on by a touch before.
    fn forget(&mut self, key: &SessionKey, last: u64, updated: bool, interaction: bool) {
        if updated {
            self.collected.forget(key, last);
        }
        let Some(touched) = self.touched.get_mut(key) else { return };
        if updated {
            touched.updated = None;
        }
        if interaction {
            touched.interaction = None;
        }
        if touched.parts().next().is_none() {
            self.touched.remove(key);
            self.bytes = self.bytes.saturating_sub(key.as_str().len() + BESIDE);
        }
    }

    fn sends<'a>(&mut self, keys: impl Iterator<Item = &'a SessionKey>) {
        keys.for_each(|key| *self.sending.entry(key.clone()).or_default() += 1);
    }

    fn has_sent<'a>(&mut self, keys: impl Iterator<Item = &'a SessionKey>) {
        keys.for_each(|key| count_down(&mut self.sending, key));
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
    is_resending: AtomicBool,
}

/// A key whose time is set: until this is dropped no touch of it is sent, and once it is settled none is on its way.
pub(super) struct Held<'a> {
    owed: &'a Owed,
    key: SessionKey,
    /// The last touch that was collected before. One after it may have seen the time that is set.
    last: u64,
}

impl Held<'_> {
    /// Whether no touch is on its way any more: it has arrived before the time is set, or it would move that on.
    pub(super) fn is_settled(&mut self) -> bool {
        let all = self.owed.all.lock();
        self.last = all.collected.last();
        !all.sending.contains_key(&self.key)
    }

    /// Waits for that, so long at most.
    pub(super) fn settle(&mut self, patience: Duration) -> bool {
        let mut all = self.owed.all.lock();
        self.owed.arrived.wait_while_for(&mut all, |all| all.sending.contains_key(&self.key), patience);
        drop(all);
        self.is_settled()
    }

    /// The time was set, or that of the last interaction: a touch before it counts no more.
    pub(super) fn forget(&self, updated: bool, interaction: bool) {
        self.owed.all.lock().forget(&self.key, self.last, updated, interaction);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // A forked process drops futures of its parent, a thread of which may have the lock for ever.
        if !fork::is_child() {
            count_down(&mut self.owed.all.lock().held, &self.key);
        }
    }
}

fn count_down(counts: &mut HashMap<SessionKey, usize>, key: &SessionKey) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Touches that are on their way again, until this is dropped.
pub(super) struct Sending<'a> {
    owed: &'a Owed,
    pub(super) touched: Vec<(SessionKey, Touched)>,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if fork::is_child() {
            return;
        }
        self.owed.all.lock().has_sent(self.touched.iter().map(|(key, _)| key));
        self.owed.arrived.notify_all();
    }
}

/// Nobody else sends touches again until this is dropped.
pub(super) struct Resending<'a>(&'a Owed);

impl Drop for Resending<'_> {
    fn drop(&mut self) {
        self.0.is_resending.store(false, Ordering::Release);
    }
}

impl Owed {
    /// Remembers a touch that was answered. False if there is no room.
    pub(super) fn note(&self, key: &SessionKey, time: i64, is_message: bool, sent: Sent) -> bool {
        let set = Set { time, sent };
        let interaction = is_message.then(|| set.clone());
        let mut all = self.all.lock();
        let has_room = all.put(key, Touched { updated: Some(set), interaction });
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

    /// Remembers what was sent again.
    pub(super) fn note_again(&self, key: &SessionKey, touched: &Touched, sent: &Sent) -> bool {
        let again = |set: &Option<Set>| set.as_ref().map(|set| Set { time: set.time, sent: sent.clone() });
        let (updated, interaction) = (again(&touched.updated), again(&touched.interaction));
        self.all.lock().put(key, Touched { updated, interaction })
    }

    /// An exact time is to be set, once that is settled.
    pub(super) fn hold(&self, key: &SessionKey) -> Held<'_> {
        let mut all = self.all.lock();
        *all.held.entry(key.clone()).or_default() += 1;
        Held { owed: self, key: key.clone(), last: all.collected.last() }
    }

    /// How many are remembered, or are to be sent.
    pub(super) fn len(&self) -> u64 {
        let all = self.all.lock();
        (all.touched.len() + all.collected.len()) as u64
    }

    /// One at a time sends them again. `None` if another one does.
    pub(super) fn resending(&self) -> Option<Resending<'_>> {
        let is_free = self.is_resending.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        is_free.then(|| Resending(self))
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
    pub(super) fn begin_sending(&self, gone: &[(SessionKey, Touched)]) -> Sending<'_> {
        let mut all = self.all.lock();
        let mut touched = gone.to_vec();
        touched.retain_mut(|(key, touched)| {
            let now = all.touched.get(key).filter(|_| !all.held.contains_key(key));
            now.is_some_and(|now| {
                // A part of it may have been forgotten.
                *touched = now.clone();
                true
            })
        });
        all.sends(touched.iter().map(|(key, _)| key));
        drop(all);
        Sending { owed: self, touched }
    }

    /// Collects a touch that is to be sent. False if there is no room.
    pub(super) fn collect(&self, key: &SessionKey, time: i64) -> bool {
        self.all.lock().collected.add(key, time)
    }

    /// Whether a touch of this is to be sent, or is on its way.
    pub(super) fn is_collected(&self, key: &SessionKey) -> bool {
        let all = self.all.lock();
        all.collected.contains(key) || all.sending.contains_key(key)
    }

    /// Takes what is to be sent: it is on its way from now on. What is on its way already waits, and so does a key whose time is
    /// set just now.
    pub(super) fn take_collected(&self) -> Vec<Touch> {
        let mut all = self.all.lock();
        let All { collected, held, sending, .. } = &mut *all;
        let taken = collected.take(|key| held.contains_key(key) || sending.contains_key(key));
        all.sends(taken.iter().map(|touch| &touch.key));
        taken
    }

    /// They are on their way no more: a node has them, or they are to be sent once more.
    pub(super) fn arrived(&self, touches: Vec<Touch>, again: bool) {
        let mut all = self.all.lock();
        all.has_sent(touches.iter().map(|touch| &touch.key));
        for touch in touches {
            if again { all.collected.back(touch) } else { all.collected.landed(&touch) }
        }
        drop(all);
        self.arrived.notify_all();
    }

    /// Whether anything is to be sent.
    pub(super) fn has_collected(&self) -> bool {
        !self.all.lock().collected.is_empty()
    }

    /// Whether anything is to be sent that was collected before a flush; and a number for a flush that begins.
    pub(super) fn has_collected_before(&self, flush: u64) -> bool {
        self.all.lock().collected.has_before(flush)
    }

    pub(super) fn begin_flush(&self) -> u64 {
        self.all.lock().collected.begin_flush()
    }
}

#[cfg(test)]
mod tests;
