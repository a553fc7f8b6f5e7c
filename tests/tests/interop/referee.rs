//! Puts cases to a comparator and watches what it does.

use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use colo_tests::Result;
use colo_tests::chardev::{Framing, Message, VNET_HEADER};
use colo_tests::contender::{Contender, Make, Properties, REQUEST};

use crate::case::{Flow, Step, Verdict};

/// How long something that must come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long something that must not come is waited for. A comparator that would ask, asks before
/// it handles the next frame; colo-xdp after `--reorder-grace`, 2 ms.
const SILENCE: Duration = Duration::from_millis(25);

/// A comparator and what it has been given so far.
pub(crate) struct Referee {
    contender: Contender,
    framing: Framing,
    markers: u32,
    marker_flow: Flow,
    requests: usize,
}

/// What has happened to the frames of one case.
#[derive(Default)]
struct Record {
    primary: Vec<Message>,
    released: Vec<usize>,
}

impl Record {
    fn held(&self) -> usize {
        self.primary.len() - self.released.len()
    }

    fn release(&mut self, message: &Message) -> Result {
        let index = (0..self.primary.len())
            .find(|index| self.primary[*index] == *message && !self.released.contains(index))
            .with_context(|| format!("released what the primary did not send: {message:02x?}"))?;
        self.released.push(index);
        Ok(())
    }
}

impl Referee {
    /// A referee for a fresh comparator.
    pub(crate) fn new(make: Make, properties: &Properties) -> Result<Self> {
        let contender = Contender::start(make, properties)?;
        Ok(Self {
            contender,
            framing: properties.framing,
            markers: 0,
            marker_flow: Flow::new(u16::MAX),
            requests: 0,
        })
    }

    /// Runs one case from an empty comparator to an empty comparator. `asks` is whether a request
    /// is expected, which says how long to wait for one; what comes counts.
    pub(crate) fn judge(&mut self, script: &[Step], asks: bool) -> Result<Verdict> {
        let mut record = Record::default();
        self.requests = 0;
        for step in script {
            self.step(step, &mut record)
                .with_context(|| format!("after the releases {:?}", record.released))?;
        }
        self.hear(if asks { PATIENCE } else { SILENCE })?;
        let verdict = Verdict { released: record.released.clone(), asked: self.requests > 0 };
        self.checkpoint(&mut record).context("when the comparator was emptied")?;
        Ok(verdict)
    }

    /// Ends the comparator, with the checks that belong to it.
    pub(crate) fn finish(self) -> Result {
        self.contender.finish()
    }

    fn step(&mut self, step: &Step, record: &mut Record) -> Result {
        match step {
            Step::Primary(frame) => {
                let message = self.message(frame, record.primary.len());
                self.send_primary(message, record)
            }
            Step::PrimaryMessage(message) => self.send_primary(message.clone(), record),
            Step::Secondary(frame) => {
                let message = self.message(frame, usize::from(u8::MAX));
                self.contender.secondary.send(&message)?;
                self.settle(record)
            }
            Step::SecondaryMessage(message) => {
                self.contender.secondary.send(message)?;
                self.settle(record)
            }
            Step::Checkpoint => self.checkpoint(record),
            Step::Wait(time) => {
                thread::sleep(*time);
                self.settle(record)
            }
        }
    }

    fn send_primary(&mut self, message: Message, record: &mut Record) -> Result {
        self.contender.primary.send(&message)?;
        record.primary.push(message);
        self.settle(record)
    }

    /// A frame as the port carries it; with vnet headers, one that tells which frame it is.
    fn message(&self, frame: &[u8], number: usize) -> Message {
        match self.framing {
            Framing::Plain => Message::plain(frame),
            Framing::Vnet => {
                let mut header = [0; VNET_HEADER];
                // The number of buffers, which matters to nobody here.
                header[10] = u8::try_from(number).expect("cases have few frames");
                Message::with_vnet_header(&header, frame)
            }
        }
    }

    /// Waits until all that has been sent has been judged: sends a pair of another flow after it
    /// and waits for that. Each input is a stream, so what came before has been handled.
    fn settle(&mut self, record: &mut Record) -> Result {
        self.markers += 1;
        let payload = [b"marker".as_slice(), &self.markers.to_be_bytes()].concat();
        let marker = self.message(&self.marker_flow.v4.udp(9, 9, &payload), 0);
        self.contender.primary.send(&marker)?;
        self.contender.secondary.send(&marker)?;
        loop {
            let message = self.contender.out.receive(PATIENCE)?;
            let message = message.context("a later frame of another flow never left")?;
            if message == marker {
                return self.hear(Duration::from_micros(1));
            }
            record.release(&message)?;
        }
    }

    /// Counts requests; waits for the first as long as `patience`.
    fn hear(&mut self, patience: Duration) -> Result {
        loop {
            let quick = Duration::from_micros(1);
            let patience = if self.requests > 0 { quick } else { patience };
            let Some(message) = self.contender.notify.receive(patience)? else { return Ok(()) };
            match message.frame() {
                text if text == REQUEST.as_bytes() => self.requests += 1,
                text => bail!("unknown message on notify_dev: {text:?}"),
            }
        }
    }

    /// Tells the comparator that the checkpoint is done, and checks that everything held leaves.
    fn checkpoint(&mut self, record: &mut Record) -> Result {
        self.requests += self.contender.checkpoint()?;
        while record.held() > 0 {
            let message = self.contender.out.receive(PATIENCE)?;
            let message = message.with_context(|| {
                format!("{} held frames did not leave at the checkpoint", record.held())
            })?;
            record.release(&message)?;
        }
        self.settle(record)?;
        ensure!(record.held() == 0, "a frame left twice");
        Ok(())
    }
}
