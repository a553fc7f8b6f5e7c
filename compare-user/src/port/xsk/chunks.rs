//! Who has which chunk of a region: pure bookkeeping, no memory and no kernel.
//!
//! Every chunk has exactly one owner at any moment, written down in one byte. A chunk moves
//!
//! ```text
//! free -> receive(port) -> user -> transmit(port) -> free
//!              |            |  ^
//!              v            v  |
//!             free         free (recycle, allocate)
//! ```
//!
//! and nothing else. The table is what makes a lost or doubled frame visible (the ports count
//! what they lend arithmetically, and a test compares the two) and what lets a port that closes
//! give back everything the kernel still had.

use serde::Serialize;

/// Largest number of ports of one region: two owner bytes each, beside "free" and "user".
pub(super) const MAX_PORTS: usize = 126;

/// End of a chain.
const LAST: u32 = u32::MAX;

/// A port's number within its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortNumber(u8);

impl PortNumber {
    pub(super) fn get(self) -> usize {
        usize::from(self.0)
    }
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner(u8);

impl Owner {
    /// On the free list.
    pub(super) const FREE: Self = Self(0);
    /// In a frame that user space holds.
    pub(super) const USER: Self = Self(1);

    /// Lent to `port` for receiving: fill ring, kernel, RX ring, or a chain still incomplete.
    pub(super) fn receive(port: PortNumber) -> Self {
        Self(2 + 2 * port.0)
    }

    /// Being sent on `port`: TX ring, kernel, completion ring.
    pub(super) fn transmit(port: PortNumber) -> Self {
        Self(3 + 2 * port.0)
    }
}

/// Where all chunks of a region are, counted by walking the whole table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Chunks of the region.
    pub total: usize,
    /// Chunks that nobody uses.
    pub free: usize,
    /// Chunks on the free list; anything but `free` is a defect.
    pub free_list: usize,
    /// Chunks in frames that user space holds.
    pub user: usize,
    /// Chunks lent for receiving, by port number.
    pub receive: Vec<usize>,
    /// Chunks being sent, by port number.
    pub transmit: Vec<usize>,
}

impl Audit {
    /// Chunks lent for receiving, all ports together.
    #[must_use]
    pub fn receiving(&self) -> usize {
        self.receive.iter().sum()
    }

    /// Chunks being sent, all ports together.
    #[must_use]
    pub fn transmitting(&self) -> usize {
        self.transmit.iter().sum()
    }
}

/// Owner and successor of every chunk, and the free list.
#[derive(Debug)]
pub(super) struct Chunks {
    owner: Box<[Owner]>,
    next: Box<[u32]>,
    /// A stack: the chunk freed last is the one most likely still in the cache. Its capacity is
    /// the number of chunks, so that it never grows.
    free: Vec<u32>,
    /// Bit n is set while port number n is attached.
    ports: u128,
}

impl Chunks {
    pub(super) fn new(total: u32) -> Self {
        let count = total as usize;
        Self {
            owner: vec![Owner::FREE; count].into(),
            next: vec![LAST; count].into(),
            // Reversed, so that the first chunks taken are the first in memory.
            free: (0..total).rev().collect(),
            ports: 0,
        }
    }

    pub(super) fn total(&self) -> usize {
        self.owner.len()
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// A number for one more port, or `None` when all [`MAX_PORTS`] are taken.
    pub(super) fn attach(&mut self) -> Option<PortNumber> {
        let number = self.ports.trailing_ones();
        if number as usize >= MAX_PORTS {
            return None;
        }
        self.ports |= 1 << number;
        u8::try_from(number).ok().map(PortNumber)
    }

    /// Frees everything that `port` has, and its number; returns how many chunks that were.
    ///
    /// Only for a port whose socket is closed: the kernel must not know these chunks any more.
    pub(super) fn detach(&mut self, port: PortNumber) -> usize {
        let theirs = [Owner::receive(port), Owner::transmit(port)];
        let mut taken_back = 0;
        for (chunk, owner) in (0u32..).zip(self.owner.iter_mut()) {
            if theirs.contains(owner) {
                *owner = Owner::FREE;
                self.free.push(chunk);
                taken_back += 1;
            }
        }
        self.ports &= !(1 << port.0);
        taken_back
    }

    /// How many chunks one port may take from the free list in one go.
    ///
    /// When chunks are scarce, the port whose turn comes first must not take them all: each
    /// takes its part of what is there, so that every port keeps receiving, if slowly.
    pub(super) fn fair_part(&self) -> usize {
        let ports = self.ports.count_ones().max(1) as usize;
        self.free.len().div_ceil(ports)
    }

    /// Takes a chunk off the free list for `to`.
    #[inline]
    pub(super) fn take(&mut self, to: Owner) -> Option<u32> {
        let chunk = self.free.pop()?;
        self.transfer(chunk, Owner::FREE, to);
        Some(chunk)
    }

    /// Puts a chunk that `from` has on the free list.
    #[inline]
    pub(super) fn give_back(&mut self, chunk: u32, from: Owner) {
        self.transfer(chunk, from, Owner::FREE);
        self.free.push(chunk);
    }

    /// Hands a chunk from one owner to the next.
    #[inline]
    pub(super) fn transfer(&mut self, chunk: u32, from: Owner, to: Owner) {
        let owner = &mut self.owner[chunk as usize];
        debug_assert_eq!(*owner, from, "chunk {chunk} on its way to {to:?}");
        *owner = to;
    }

    /// Whether `owner` has `chunk`; false for a chunk that does not exist.
    #[inline]
    pub(super) fn is_with(&self, chunk: u32, owner: Owner) -> bool {
        self.owner.get(chunk as usize) == Some(&owner)
    }

    /// Makes `chunk` the last one of its chain.
    #[inline]
    pub(super) fn end_chain(&mut self, chunk: u32) {
        self.next[chunk as usize] = LAST;
    }

    /// Appends `next` to the chain that ends with `chunk`.
    #[inline]
    pub(super) fn link(&mut self, chunk: u32, next: u32) {
        self.next[chunk as usize] = next;
    }

    /// The chunk that follows in the same frame.
    #[inline]
    pub(super) fn next(&self, chunk: u32) -> Option<u32> {
        Some(self.next[chunk as usize]).filter(|&next| next != LAST)
    }

    /// The chunks of the frame that starts with `head`.
    pub(super) fn chain(&self, head: u32) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(Some(head), |&chunk| self.next(chunk))
    }

    pub(super) fn audit(&self) -> Audit {
        let slots = (u128::BITS - self.ports.leading_zeros()) as usize;
        let mut counts = [0; 2 + 2 * MAX_PORTS];
        for owner in &self.owner {
            counts[usize::from(owner.0)] += 1;
        }
        let by_port = |first: usize| counts[first..].iter().step_by(2).take(slots).copied();
        Audit {
            total: self.owner.len(),
            free: counts[usize::from(Owner::FREE.0)],
            free_list: self.free.len(),
            user: counts[usize::from(Owner::USER.0)],
            receive: by_port(2).collect(),
            transmit: by_port(3).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_counted_where_it_is() {
        let mut chunks = Chunks::new(8);
        let (first, second) = (chunks.attach().unwrap(), chunks.attach().unwrap());
        chunks.take(Owner::receive(first)).unwrap();
        chunks.take(Owner::receive(first)).unwrap();
        let held = chunks.take(Owner::receive(second)).unwrap();
        chunks.transfer(held, Owner::receive(second), Owner::USER);
        let sent = chunks.take(Owner::USER).unwrap();
        chunks.transfer(sent, Owner::USER, Owner::transmit(second));

        let audit = chunks.audit();

        assert_eq!((audit.total, audit.free, audit.free_list, audit.user), (8, 4, 4, 1));
        assert_eq!((audit.receive, audit.transmit), (vec![2, 0], vec![0, 1]));
    }

    #[test]
    fn the_chunk_freed_last_is_taken_first() {
        let mut chunks = Chunks::new(8);
        chunks.take(Owner::USER).unwrap();
        let warm = chunks.take(Owner::USER).unwrap();
        chunks.give_back(warm, Owner::USER);
        assert_eq!(chunks.take(Owner::USER), Some(warm));
    }

    #[test]
    fn an_empty_free_list_yields_nothing() {
        let mut chunks = Chunks::new(1);
        assert!(chunks.take(Owner::USER).is_some());
        assert_eq!(chunks.take(Owner::USER), None);
    }

    #[test]
    fn a_closed_port_gives_back_what_it_had_and_only_that() {
        let mut chunks = Chunks::new(8);
        let (closing, staying) = (chunks.attach().unwrap(), chunks.attach().unwrap());
        chunks.take(Owner::receive(closing)).unwrap();
        let sent = chunks.take(Owner::USER).unwrap();
        chunks.transfer(sent, Owner::USER, Owner::transmit(closing));
        chunks.take(Owner::receive(staying)).unwrap();
        chunks.take(Owner::USER).unwrap();

        assert_eq!(chunks.detach(closing), 2);

        let audit = chunks.audit();
        assert_eq!((audit.free, audit.free_list, audit.user), (6, 6, 1));
        assert_eq!(audit.receive, [0, 1]);
        assert_eq!(chunks.attach(), Some(closing), "the number can be used again");
    }

    #[test]
    fn scarce_chunks_are_divided_among_the_ports() {
        let mut chunks = Chunks::new(10);
        chunks.attach().unwrap();
        assert_eq!(chunks.fair_part(), 10);
        chunks.attach().unwrap();
        chunks.attach().unwrap();
        assert_eq!(chunks.fair_part(), 4);
    }

    #[test]
    fn ports_run_out_at_the_limit() {
        let mut chunks = Chunks::new(1);
        for number in 0..MAX_PORTS {
            assert_eq!(chunks.attach().map(PortNumber::get), Some(number));
        }
        assert_eq!(chunks.attach(), None);
        assert_eq!(chunks.audit().receive.len(), MAX_PORTS);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "chunk 0")]
    fn freeing_a_chunk_twice_is_caught() {
        let mut chunks = Chunks::new(2);
        let chunk = chunks.take(Owner::USER).unwrap();
        chunks.give_back(chunk, Owner::USER);
        chunks.give_back(chunk, Owner::USER);
    }
}
