//! What is done while there is a connection: hear and take in, tell, and look up.
//!
//! First the channel is heard, so that nothing is missed; then what is known here is told, all of it, since the store may
//! have lost it and so may others; then each torrent of it is looked up. From then on updates are told as they come, and a
//! torrent that is announced to here for the first time is looked up. Nothing of this is one long piece of work: between
//! two parts updates are told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, Value, cmd};
use tokio::sync::mpsc::Receiver;

use super::guard::Exceeded;
use super::keys::{LookUp, Moment, writes};
use super::link::{Gone, Link, plain};
use super::{GATHER, SPURNED_MAX, Sharing, random};
use crate::proto::InfoHash;
use crate::tracker::sharing::{Batch, Cursor, DOWNLOADS, SenderId, encode};
use crate::tracker::{Tracker, Worker};

/// Commands that are sent together.
const COMMANDS_MAX: usize = 256;
/// Torrents that are looked up together.
const LOOK_UPS_AT_ONCE: usize = 8;
/// Pages that are asked for between two looks at the updates.
const LOOK_UPS_A_TURN: usize = 4 * LOOK_UPS_AT_ONCE;
/// Torrents that wait to be looked up. Beyond that the next announce asks once more.
const LOOK_UPS_MAX: usize = 1 << 16;
/// Peers that are told of in one part, when all are.
const PART: usize = 2048;
/// How often a store that there is nothing to say to is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(5);

/// A connection and what is under way on it.
struct Session<'a> {
    sharing: &'a mut Sharing,
    link: Link,
    worker: Worker,
    look_ups: VecDeque<LookUp>,
    /// What was asked for when the connection ended.
    asking: Vec<InfoHash>,
    /// The store has been blamed for a refusal: once is enough.
    is_blamed: bool,
}

impl Sharing {
    /// Shares until the connection ends, and says why it has.
    pub(super) async fn session(&mut self, mut link: Link) -> Gone {
        let driver = link.driver.take().expect("a connection that is new");
        let inbox = link.inbox.take().expect("a connection that is new");
        let unheard = Arc::clone(&link.unheard);
        let seed = u64::from_le_bytes(random());
        let hearing = hear(Arc::clone(&self.tracker), self.id, inbox);
        let mut session = Session {
            worker: self.tracker.worker(seed),
            sharing: self,
            link,
            look_ups: VecDeque::new(),
            asking: Vec::new(),
            is_blamed: false,
        };
        let why = tokio::select! {
            why = session.tell() => why,
            () = driver => Gone::Redis("the connection has ended".to_owned()),
            () = hearing => Gone::Redis("the connection has ended".to_owned()),
        };
        session.sharing.figures.drop_heard(unheard.load(Relaxed));
        match session.link.exceeded() {
            Some(Exceeded { what, in_reply }) => {
                if in_reply {
                    session.spurn();
                }
                what.into()
            }
            None => why,
        }
    }
}

/// Takes in what is heard.
async fn hear(tracker: Arc<Tracker>, id: SenderId, mut inbox: Receiver<Vec<u8>>) {
    let mut worker = tracker.worker(u64::from_le_bytes(random()));
    let figures = super::figures::Figures::default();
    while let Some(message) = inbox.recv().await {
        match tracker.learn_message(&mut worker, &id, &message, Instant::now()) {
            Ok(learnt) => figures.heard(learnt.taken, learnt.bad),
            Err(error) => {
                figures.heard(0, 1);
                tracing::debug!("the tracker's store passes on what nobody of us has said: {error}");
            }
        }
    }
}

impl Session<'_> {
    /// Tells and looks up until the connection ends.
    async fn tell(&mut self) -> Gone {
        match self.try_to_tell().await {
            Ok(never) => match never {},
            Err(why) => why,
        }
    }

    async fn try_to_tell(&mut self) -> Result<std::convert::Infallible, Gone> {
        self.link.subscribe().await?;
        self.link.read_clock().await?;
        let mut known = Some(Cursor::default());
        loop {
            if known.is_none() && self.look_ups.is_empty() {
                self.rest().await?;
            }
            self.take_updates();
            // Taken at the same moment as the updates: what they say is in it or was told before, so that no completion is
            // counted twice.
            let mut part = Batch::default();
            if self.look_ups.len() < LOOK_UPS_MAX / 2
                && let Some(cursor) = &mut known
                && !self.take_known(cursor, &mut part)
            {
                known = None;
            }
            self.tell_news().await?;
            self.write(&part, false).await?;
            self.look_up().await?;
        }
    }

    /// Waits for updates, and for others to come with them.
    async fn rest(&mut self) -> Result<(), Gone> {
        let news = Arc::clone(&self.sharing.news);
        while tokio::time::timeout(PING_EVERY, news.notified()).await.is_err() {
            let mut pipeline = Pipeline::new();
            pipeline.cmd("PING");
            self.link.ask(&pipeline).await?;
        }
        tokio::time::sleep(GATHER).await;
        Ok(())
    }

    fn take_updates(&mut self) {
        let sharing = &mut *self.sharing;
        sharing.tracker.take_updates(&mut sharing.updates);
        for update in sharing.updates.drain(..) {
            if let Some(info_hash) = update.asks_for() {
                if self.look_ups.len() < LOOK_UPS_MAX {
                    self.look_ups.push_back(LookUp::new(info_hash, false));
                } else {
                    sharing.tracker.ask_again(&info_hash);
                }
            }
            sharing.pending.add(update);
        }
        let dropped = sharing.tracker.updates_dropped();
        sharing.figures.set_outbox_dropped(dropped);
    }

    /// Takes the next part of what is known here, and plans the look-ups of its torrents. False if it was the last.
    fn take_known(&mut self, cursor: &mut Cursor, part: &mut Batch) -> bool {
        let mut done = Vec::new();
        let more = self
            .sharing
            .tracker
            .tell_known(&mut self.worker, cursor, PART, part, &mut done, Instant::now());
        self.look_ups
            .extend(done.into_iter().map(|info_hash| LookUp::new(info_hash, true)));
        more
    }

    /// Tells what is pending. If that fails, what will not be told again stays so.
    async fn tell_news(&mut self) -> Result<(), Gone> {
        let mut batch = std::mem::take(&mut self.sharing.pending);
        let written = self.write(&batch, true).await;
        if written.is_err() {
            // Completions may have been counted. If not, the count that is told next makes up for it.
            batch.keep_what_is_told_once(true);
            self.sharing.pending = batch;
        }
        written
    }

    async fn write(&mut self, batch: &Batch, is_news: bool) -> Result<(), Gone> {
        if batch.is_empty() {
            return Ok(());
        }
        let tracker = Arc::clone(&self.sharing.tracker);
        let moment = Moment {
            now_ms: self.link.now_ms(),
            lifetime: tracker.lifetime(),
        };
        let mut commands = writes(batch, moment, |age| tracker.time_of_age(age), is_news);
        commands.extend(self.messages(batch));
        for commands in commands.chunks(COMMANDS_MAX) {
            let mut pipeline = Pipeline::new();
            for command in commands {
                pipeline.add_command(command.clone());
            }
            for reply in self.link.ask(&pipeline).await? {
                self.look_for_refusal(&reply);
            }
        }
        self.sharing.figures.batch(batch.len() as u64);
        Ok(())
    }

    /// The commands that tell others of a batch.
    fn messages(&self, batch: &Batch) -> Vec<Cmd> {
        let unit = self.sharing.tracker.time_of_age(1).as_millis();
        let messages = encode(batch, &self.sharing.id, u32::try_from(unit).unwrap_or(u32::MAX));
        let publish = |message: Vec<u8>| {
            let mut command = cmd("PUBLISH");
            command.arg(self.link.channel()).arg(message);
            command
        };
        messages.into_iter().map(publish).collect()
    }

    fn look_for_refusal(&mut self, reply: &Value) {
        if let Value::ServerError(error) = reply {
            self.sharing.figures.error();
            if !std::mem::replace(&mut self.is_blamed, true) {
                let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
                let text = self.sharing.url.without_secrets(&text);
                tracing::warn!("the tracker's store refuses something: {}", plain(&text));
            }
        }
    }

    /// Looks up some of the torrents that wait for it.
    async fn look_up(&mut self) -> Result<(), Gone> {
        for _ in 0..LOOK_UPS_A_TURN / LOOK_UPS_AT_ONCE {
            let mut asked = Vec::new();
            let mut pipeline = Pipeline::new();
            let now_ms = self.link.now_ms();
            while asked.len() < LOOK_UPS_AT_ONCE
                && let Some(look_up) = self.look_ups.pop_front()
            {
                if !self.sharing.spurned.contains(&look_up.info_hash) {
                    look_up.ask(&mut pipeline, now_ms);
                    asked.push(look_up);
                }
            }
            if asked.is_empty() {
                return Ok(());
            }
            self.asking = asked.iter().map(|look_up| look_up.info_hash).collect();
            let replies = self.link.ask(&pipeline).await?;
            self.asking.clear();
            let mut counts = Batch::default();
            let (pairs, _) = replies.as_chunks::<2>();
            for (look_up, [downloads, peers]) in asked.iter().zip(pairs) {
                self.look_for_refusal(downloads);
                self.look_for_refusal(peers);
                self.take_downloads(look_up, downloads, &mut counts);
                let scores = self.take_peers(look_up, peers);
                self.look_ups.extend(look_up.next(&scores));
            }
            // Others may have told the store of completions that nobody who runs has heard of.
            for command in self.messages(&counts) {
                let mut pipeline = Pipeline::new();
                pipeline.add_command(command);
                self.link.ask(&pipeline).await?;
            }
        }
        Ok(())
    }

    fn take_downloads(&mut self, look_up: &LookUp, reply: &Value, counts: &mut Batch) {
        if let Value::Double(score) = reply {
            let member = (DOWNLOADS, *score);
            self.learn(look_up, member);
            if look_up.tells && *score >= 1.0 {
                counts.set_downloaded(look_up.info_hash, *score as u32); // No more than a u32 can hold.
            }
        }
    }

    /// Takes in the peers of a page. Gives their scores.
    fn take_peers(&mut self, look_up: &LookUp, reply: &Value) -> Vec<f64> {
        let Value::Array(members) = reply else {
            return Vec::new();
        };
        let mut scores = Vec::with_capacity(members.len());
        for member in members {
            if let Value::Array(pair) = member
                && let [Value::BulkString(member), Value::Double(score)] = pair.as_slice()
            {
                scores.push(*score);
                self.learn(look_up, (member, *score));
            }
        }
        scores
    }

    fn learn(&mut self, look_up: &LookUp, member: (&[u8], f64)) {
        let (info_hash, now_ms) = (&look_up.info_hash, self.link.now_ms());
        let tracker = &self.sharing.tracker;
        let learnt = tracker.learn_member(&mut self.worker, info_hash, member, now_ms, Instant::now());
        self.sharing.figures.heard(learnt.taken, learnt.bad);
    }

    /// A reply was too much. If it was that to a look-up, its torrents are not looked up again: no connection would last.
    fn spurn(&mut self) {
        if self.sharing.spurned.len() + self.asking.len() > SPURNED_MAX {
            self.sharing.spurned.clear();
        }
        self.sharing.spurned.extend(self.asking.drain(..));
    }
}
