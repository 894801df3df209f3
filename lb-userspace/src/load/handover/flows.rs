//! Moves flows from a table into one that is laid out otherwise, while packets pass.
//!
//! The programs that look whose a packet is serve a flow from the new table as soon as both of its halves are there, and never
//! before. So a flow moves at one instant, after which nothing of the old table about it is looked at again; what packets
//! change in the instant itself is looked for and brought up to date.

use std::marker::PhantomData;

use bytemuck::Pod;
use lb_common::abi::{Flow, State, Tuple};

use super::{
    carry::{Carried, Pass, Round, is_before},
    raw::{RawError, RawMap},
    schema::Conversion,
};

/// Flows are looked at again if they were opened in so many ticks (of about a second) before the last look.
const SLACK: u32 = 2;

/// From one flow table into another.
#[derive(Debug)]
pub(super) struct Flows<A> {
    from: RawMap,
    to: RawMap,
    key: Conversion,
    value: Conversion,
    old_key: Conversion,
    /// When the last flow was opened that has been seen.
    last: Option<u32>,
    family: PhantomData<A>,
}

impl<A: Copy + Eq> Flows<A>
where
    Tuple<A>: Pod,
    Flow<A>: Pod,
{
    pub(super) fn new(from: RawMap, to: RawMap) -> Result<Self, RawError> {
        let [old_key, old_value] = from.schemas()?;
        let [key, value] = to.schemas()?;
        Ok(Self {
            key: Conversion::between(&old_key, &key),
            value: Conversion::between(&old_value, &value),
            old_key: Conversion::between(&key, &old_key),
            from,
            to,
            last: None,
            family: PhantomData,
        })
    }

    /// Moves the flow that an entry belongs to, if it is that flow's first one.
    fn move_flow(&self, key: &Tuple<A>, round: Round, carried: &mut Carried) {
        let is_forward = |flow: &Flow<A>| flow.flags & Flow::<A>::REVERSE == 0;
        // As it is now: entries are listed many at a time.
        let Some(flow) = self.before(key) else { return };
        if round == Round::Copying && flow.state >= State::ClosingForward as u8 {
            return;
        }
        if !is_forward(&flow) {
            // By the other half; a reverse one that is alone, by itself.
            if self.before(&flow.to.reverse()).is_none() {
                self.move_translation(key, carried);
            }
            return;
        }
        // Of two translations in a row, the second begins with what the first ends with.
        let of_first = self.before(&key.reverse());
        if of_first.is_some_and(|half| self.before(&half.to.reverse()).is_some()) {
            return;
        }
        let has_second = self.before(&flow.to).as_ref().is_some_and(is_forward);
        if !has_second || self.move_translation(&flow.to, carried) {
            self.move_translation(key, carried);
        }
    }

    /// Moves both halves of a translation; gives whether they are there.
    fn move_translation(&self, key: &Tuple<A>, carried: &mut Carried) -> bool {
        let Some(flow) = self.before(key) else {
            return false;
        };
        let twin_key = flow.to.reverse();
        let (there, twin_there) = (self.moved(key), self.moved(&twin_key));
        // It has moved, and may have been opened anew since. Or another flow has its port: then its next packet opens it anew.
        let is_other = |there: &Flow<A>, to: Tuple<A>| there.to != to;
        if there.is_some_and(|there| twin_there.is_some() || is_other(&there, flow.to)) {
            return true;
        }
        if twin_there.is_some_and(|there| is_other(&there, key.reverse())) {
            carried.lost += 1;
            return false;
        }
        let mut state = flow.state;
        if let Some(mut twin) = self.before(&twin_key) {
            state = state.max(twin.state);
            twin.state = state;
            if twin_there.is_none() && !self.set(&twin_key, &twin, true) {
                carried.lost += 1;
                return false;
            }
        }
        if there.is_none() && !self.set(key, &Flow { state, ..flow }, true) {
            carried.lost += 1;
            return false;
        }
        carried.copied += 1;
        // What the last packet that the old programs served has changed.
        let now = [*key, twin_key].map(|key| self.before(&key).map_or(0, |flow| flow.state));
        let now = now.into_iter().max().unwrap_or_default();
        for key in [*key, twin_key] {
            if now > state
                && let Some(flow) = self.moved(&key)
                && flow.state < now
            {
                self.set(&key, &Flow { state: now, ..flow }, false);
                carried.renewed += 1;
            }
        }
        true
    }

    fn before(&self, key: &Tuple<A>) -> Option<Flow<A>> {
        let found = self.from.get(&self.old_key.apply(bytemuck::bytes_of(key)))?;
        Some(bytemuck::pod_read_unaligned(&self.value.apply(&found)))
    }

    fn moved(&self, key: &Tuple<A>) -> Option<Flow<A>> {
        let found = self.to.get(bytemuck::bytes_of(key))?;
        Some(bytemuck::pod_read_unaligned(&found))
    }

    fn set(&self, key: &Tuple<A>, flow: &Flow<A>, is_new: bool) -> bool {
        let mut value = *flow;
        self.to
            .set(
                bytemuck::bytes_of(key),
                bytemuck::bytes_of_mut(&mut value),
                is_new,
            )
            .is_ok()
    }
}

impl<A: Copy + Eq> Pass for Flows<A>
where
    Tuple<A>: Pod,
    Flow<A>: Pod,
{
    /// Moves what is not in the new table: the first time everything, from then on what has been opened since.
    fn pass(&mut self, round: Round) -> Result<Carried, RawError> {
        let mut carried = Carried::default();
        // What was passed over before is looked at in the end.
        let since = self.last.filter(|_| round == Round::Copying);
        let mut last = self.last;
        self.from.for_each(|key, value| {
            let key: Tuple<A> = bytemuck::pod_read_unaligned(&self.key.apply(key));
            let flow: Flow<A> = bytemuck::pod_read_unaligned(&self.value.apply(value));
            if since.is_some_and(|since| is_before(flow.created, since.wrapping_sub(SLACK))) {
                return;
            }
            if last.is_none_or(|last| is_before(last, flow.created)) {
                last = Some(flow.created);
            }
            self.move_flow(&key, round, &mut carried);
        })?;
        self.last = last;
        Ok(carried)
    }
}
