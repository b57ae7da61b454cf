//! What is done while there is a connection: hear and take in, tell, and look up.
//!
//! The channel is heard already, so that nothing is missed; now what is known here is told, all of it, since the store may
//! have lost it and so may others; then each torrent of it is looked up. From then on updates are told as they come, and a
//! torrent that is announced to here for the first time is looked up. If messages were dropped, because they came faster than
//! they could be taken in, all torrents are looked up once more: then only who has left meanwhile is not known to have. Nothing
//! of this is one long piece of work: between two parts updates are told.
//!
//! What is pending stays so until the store has acknowledged all of it, however the connection ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, Value, cmd};
use tokio::sync::mpsc::Receiver;

use super::guard::Exceeded;
use super::keys::{LookUp, Moment, writes};
use super::link::{Gone, Link, plain, text_of};
use super::{GATHER, PENDING_MAX_IN_ALL, SPURNED_MAX, Sharing, random};
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
/// Peers and torrents that are told of in one part, when all are.
const PART: usize = 2048;
/// How long all torrents are not looked up once more after they were, at least; and if that took longer, for as long.
const REPAIR_REST: Duration = Duration::from_secs(5);
/// How often a store that there is nothing to say to is asked whether it is there and may be written to.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// A connection and what is under way on it.
struct Session<'a> {
    sharing: &'a mut Sharing,
    link: Link,
    worker: Worker,
    look_ups: VecDeque<LookUp>,
    /// All torrents are gone through.
    round: Option<Round>,
    /// When there may be another round.
    next_round: Instant,
    /// Messages that were dropped before the last round, and those that have been counted.
    unheard_before: u64,
    unheard_counted: u64,
    /// What was asked for when the connection ended.
    asking: Vec<InfoHash>,
    /// The store has been blamed for a refusal: once is enough.
    is_blamed: bool,
}

/// How far all torrents have been gone through.
struct Round {
    cursor: Cursor,
    /// What is known of them is told.
    tells: bool,
    began: Instant,
}

impl Round {
    fn new(tells: bool) -> Self {
        Self {
            cursor: Cursor::default(),
            tells,
            began: Instant::now(),
        }
    }
}

impl Sharing {
    /// Shares until the connection ends, and says why it has.
    pub(super) async fn session(&mut self, mut link: Link) -> Gone {
        let driver = link.driver.take().expect("a connection that is new");
        let inbox = link.inbox.take().expect("a connection that is new");
        let seed = u64::from_le_bytes(random());
        let hearing = hear(Arc::clone(&self.tracker), self.id, inbox);
        let mut session = Session {
            worker: self.tracker.worker(seed),
            sharing: self,
            link,
            look_ups: VecDeque::new(),
            round: Some(Round::new(true)),
            next_round: Instant::now(),
            unheard_before: 0,
            unheard_counted: 0,
            asking: Vec::new(),
            is_blamed: false,
        };
        // In this order: what the driver has read, a reply and the messages behind it, is taken in in the order in which the
        // store has said it. Otherwise a peer that a look-up has found, and that has left since, would be taken out first and
        // then taken in.
        let why = tokio::select! {
            biased;
            () = driver => Gone::Ended,
            why = session.tell() => why,
            () = hearing => Gone::Ended,
        };
        session.count_unheard();
        // The rest of it is told with all that is known. Completions may have been counted; if not, the count that is told
        // next makes up for it.
        session.sharing.pending.keep_what_is_told_once(true);
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
        // A message is some milliseconds of work, and there may be no end of them.
        tokio::task::yield_now().await;
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
        loop {
            // Who stops btd has seen to it that there are no more updates than those that are taken now.
            let is_last = self.sharing.flags.is_stopping();
            self.count_unheard();
            self.plan_round();
            if !is_last && self.round.is_none() && self.look_ups.is_empty() {
                self.rest().await?;
            }
            // What is known is taken before the updates are, and told after them, but for the peers that they are about. So
            // nobody who has left meanwhile is told of, and a completion that is in the count is in the store by then: told
            // the other way round it would be counted by both.
            let mut part = Batch::default();
            if !is_last && self.look_ups.len() < LOOK_UPS_MAX / 2 {
                self.take_part(&mut part);
            }
            self.take_updates();
            part.leave_out(&self.sharing.pending);
            self.tell_news().await?;
            if is_last {
                return Err(Gone::Stopping);
            }
            self.write(&part, false).await?;
            self.look_up().await?;
        }
    }

    /// Counts the messages that were dropped.
    fn count_unheard(&mut self) {
        let unheard = self.link.unheard.load(Relaxed);
        self.sharing.figures.drop_heard(unheard - self.unheard_counted);
        self.unheard_counted = unheard;
    }

    /// Goes through all torrents once more if messages about some of them were dropped since that was begun last.
    fn plan_round(&mut self) {
        if self.round.is_none() && self.unheard_counted > self.unheard_before && Instant::now() >= self.next_round {
            tracing::debug!("messages were dropped: all torrents are looked up in the tracker's store");
            self.unheard_before = self.unheard_counted;
            self.round = Some(Round::new(false));
        }
    }

    /// Waits for updates, and for others to come with them; not for long.
    async fn rest(&mut self) -> Result<(), Gone> {
        let news = Arc::clone(&self.sharing.news);
        match tokio::time::timeout(CHECK_EVERY, news.notified()).await {
            Ok(()) => tokio::time::sleep(GATHER).await,
            Err(_) => self.link.check().await?,
        }
        Ok(())
    }

    fn take_updates(&mut self) {
        let sharing = &mut *self.sharing;
        sharing.tracker.take_updates(&mut sharing.updates);
        let mut updates = std::mem::take(&mut sharing.updates);
        for update in updates.drain(..) {
            if let Some(info_hash) = update.asks_for() {
                if self.look_ups.len() < LOOK_UPS_MAX {
                    self.look_ups.push_back(LookUp::new(info_hash, false));
                } else {
                    sharing.tracker.ask_again(&info_hash);
                }
            }
            sharing.keep(update, PENDING_MAX_IN_ALL);
        }
        sharing.updates = updates;
        let dropped = sharing.tracker.updates_dropped();
        sharing.figures.set_outbox_dropped(dropped);
    }

    /// Takes the next part of what is known here, if all is gone through, and plans the look-ups of its torrents.
    fn take_part(&mut self, part: &mut Batch) {
        let Some(round) = &mut self.round else { return };
        let (tracker, worker) = (&self.sharing.tracker, &mut self.worker);
        let (tells, mut done) = (round.tells, Vec::new());
        let more = match tells {
            true => tracker.tell_known(worker, &mut round.cursor, PART, part, &mut done, Instant::now()),
            false => tracker.list_known(worker, &mut round.cursor, PART, &mut done),
        };
        if !more {
            self.next_round = Instant::now() + round.began.elapsed().max(REPAIR_REST);
            self.round = None;
        }
        let look_ups = done.into_iter().map(|info_hash| LookUp::new(info_hash, tells));
        self.look_ups.extend(look_ups);
    }

    /// Tells what is pending. It stays so if that fails, or ends with the connection.
    async fn tell_news(&mut self) -> Result<(), Gone> {
        let Sharing { tracker, pending, .. } = &mut *self.sharing;
        tracker.set_ages(pending, Instant::now());
        self.send(self.commands(&self.sharing.pending, true)).await?;
        let told = std::mem::take(&mut self.sharing.pending);
        self.sharing.figures.batch(told.len() as u64);
        Ok(())
    }

    async fn write(&mut self, batch: &Batch, is_news: bool) -> Result<(), Gone> {
        self.send(self.commands(batch, is_news)).await?;
        self.sharing.figures.batch(batch.len() as u64);
        Ok(())
    }

    /// The commands that write a batch and tell others of it.
    fn commands(&self, batch: &Batch, is_news: bool) -> Vec<Cmd> {
        let tracker = &self.sharing.tracker;
        let moment = Moment {
            now_ms: self.link.now_ms(),
            lifetime: tracker.lifetime(),
        };
        let mut commands = writes(batch, moment, |age| tracker.time_of_age(age), is_news);
        commands.extend(self.messages(batch));
        commands
    }

    async fn send(&mut self, commands: Vec<Cmd>) -> Result<(), Gone> {
        for commands in commands.chunks(COMMANDS_MAX) {
            let mut pipeline = Pipeline::new();
            for command in commands {
                pipeline.add_command(command.clone());
            }
            for reply in self.link.ask(&pipeline).await? {
                self.look_for_refusal(&reply);
            }
        }
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
                let text = self.sharing.url.without_secrets(&text_of(error));
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
            // Who has left here while the store answered is not taken in again.
            self.take_updates();
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
            self.send(self.messages(&counts)).await?;
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
        if self.sharing.pending.has_left(&look_up.info_hash, member.0) {
            return;
        }
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
