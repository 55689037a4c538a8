//! The verbs of one entry are single steps: whatever threads do at once, some order of their calls explains every answer.

pub mod spec;
pub mod verbs;

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::Dice;
use spec::{Call, Op, has_an_order};
use verbs::{TICKS, Verbs};

const CALLS: usize = 4;

/// Records one history on the keys `first` and maybe `first + 1`, which nobody has used before. A verb that the engine does
/// not have becomes a resolve.
pub fn record(verbs: &dyn Verbs, dice: &mut Dice, first: usize, has: &dyn Fn(Op) -> bool) -> Vec<Call> {
    let (keys, threads) = (1 + dice.roll(2), 3 + dice.roll(2));
    let ticket = AtomicU64::new(0);
    let call = |thread: usize, key: usize, op: Op, at: i64| {
        TICKS.set(at);
        let began = ticket.fetch_add(1, Ordering::SeqCst);
        let answer = verbs.call(first + key, op);
        Call { thread, key, op, at, answer, began, ended: ticket.fetch_add(1, Ordering::SeqCst) }
    };
    let mut calls = Vec::new();
    for key in 0..keys {
        if dice.roll(4) > 0 {
            calls.push(call(0, key, Op::Resolve, 0));
        }
    }
    let plans: Vec<Vec<_>> = (0..threads)
        .map(|thread| {
            (0..CALLS).map(|n| (dice.roll(keys), op(dice, thread * CALLS + n, has), dice.roll(8) as i64 * 20)).collect()
        })
        .collect();
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let run = |(thread, plan): (usize, Vec<(usize, Op, i64)>)| {
            let (call, start) = (&call, &start);
            scope.spawn(move || {
                start.wait();
                plan.into_iter().map(|(key, op, at)| call(thread + 1, key, op, at)).collect::<Vec<_>>()
            })
        };
        let running: Vec<_> = plans.into_iter().enumerate().map(run).collect();
        calls.extend(running.into_iter().flat_map(|thread| thread.join().unwrap()));
    });
    for key in 0..keys {
        calls.push(call(0, key, Op::Get, 0));
        calls.push(call(0, key, Op::Remove, 0));
    }
    calls
}

/// The `n`-th call of a history; what it writes no other one does.
fn op(dice: &mut Dice, n: usize, has: &dyn Fn(Op) -> bool) -> Op {
    let op = match dice.roll(28) {
        0..2 => Op::Get,
        2..4 => Op::Touch,
        4..6 => Op::Append(char::from(b'a' + n as u8)),
        6 => Op::Usage(1 << n),
        7 => Op::Suspend,
        8 => Op::Unsuspend,
        9 => Op::Remove,
        10..12 => Op::Resolve,
        12 => Op::Reset,
        13..15 => Op::Modify(char::from(b'A' + n as u8)),
        15..17 => Op::Put(char::from(b'a' + n as u8).to_ascii_uppercase()),
        17 => Op::Repoint(dice.roll(2) as u32),
        18..20 => Op::Hold,
        20 => Op::LetGo,
        21..23 => Op::HoldUntil(dice.roll(3) > 0),
        23 => Op::Release,
        24 => Op::Cap,
        _ => Op::Prune,
    };
    if has(op) { op } else { Op::Resolve }
}

/// The keys of a history that no order explains.
pub fn unexplained(calls: &[Call]) -> Option<String> {
    let of_key = |key| calls.iter().filter(|call| call.key == key).cloned().collect::<Vec<_>>();
    let mut bad = (0..2).map(of_key).find(|calls| !calls.is_empty() && !has_an_order(calls))?;
    bad.sort_by_key(|call| call.began);
    let line = |Call { thread, op, at, answer, began, ended, .. }: &Call| {
        format!("{began:>3} to {ended:>3}, thread {thread}, tick {at}: {op:?} answered {answer:?}\n")
    };
    Some(bad.iter().map(line).collect())
}
