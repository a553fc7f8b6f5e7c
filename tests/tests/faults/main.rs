//! What goes wrong on real devices while frames are under way: processes that are killed, devices that
//! go, memory and disks that are full, clocks that jump.
//!
//! Two loads go on through it. [`load::Transfers`] are TCP connections through the whole proxy, whose
//! content is verified to the last byte. [`load::Chatter`] are the guests' frames one by one, where it
//! matters which of them may leave. After each fault the books are looked at: every frame is in one
//! place, and what was lost was counted.
//!
//! `COLO_FAULT_KILLS` says how often processes are killed (15 unless it does), `COLO_FAULT_SEED` repeats
//! the moments of an earlier run.

mod clock;
mod devices;
mod disk;
mod kills;
mod load;
mod room;
mod second;
