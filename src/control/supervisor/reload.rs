//! SIGHUP: the configuration is read again, and what can be taken over of it is, without a
//! connection ended but those of torrents whose folder is gone or has its payload elsewhere.
//!
//! It is read and judged on a thread, whole, with the files that it names: what is not right in every line changes
//! nothing. Signals that come meanwhile are one more reload afterwards. What a running btd cannot change is named, and
//! stays as it was; `config::changes` says which keys these are.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Supervisor;
use crate::control::checks::{Job, Progress};
use crate::control::config::{self, Config, Watch};
use crate::control::torrents::Removal;
use crate::control::{blocking, example, logging, metrics, service_manager};
use crate::session::Pause;

/// Why a configuration was not taken over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// It cannot be followed.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Its example cannot be made.
    #[error(transparent)]
    Example(#[from] example::Error),
    /// There was no thread to read it.
    #[error("no thread to read it: {0}")]
    Thread(String),
}

/// Reads the configuration when it is asked to.
pub(super) struct Reload {
    file: PathBuf,
    sender: mpsc::UnboundedSender<Result<Config, Refused>>,
    is_running: bool,
    /// It was asked for once more meanwhile.
    is_wanted: bool,
    /// What is still to be done with watch folders, in this order.
    steps: VecDeque<Step>,
    /// And what is then.
    then: Option<Then>,
    /// Why the last one changed nothing, if it did not.
    refused: Option<String>,
}

/// Something to be done with a watch folder.
enum Step {
    /// What is left of one that was closed: the files that its torrents come from.
    Empty {
        files: std::vec::IntoIter<Arc<Path>>,
        why: &'static str,
    },
    Open(Watch),
}

/// The end of a reload.
struct Then {
    /// Torrents may be had from others than before.
    finds_others: bool,
    /// The keys that wait for a restart.
    waiting: String,
}

/// Torrents that leave at once with their folder: other events come between.
const LEAVING_MAX: usize = 32;

impl Reload {
    /// Reads `file`; what came of it is received from the other end.
    pub(super) fn new(file: PathBuf) -> (Self, mpsc::UnboundedReceiver<Result<Config, Refused>>) {
        let (sender, receiver) = mpsc::unbounded_channel(); // One at a time.
        let reload = Self {
            file,
            sender,
            is_running: false,
            is_wanted: false,
            steps: VecDeque::new(),
            then: None,
            refused: None,
        };
        (reload, receiver)
    }

    /// Why btd goes on with the configuration it had, if the last reload changed nothing.
    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    fn begin(&mut self) {
        if self.is_running {
            self.is_wanted = true;
            return;
        }
        self.is_running = true;
        service_manager::reloading();
        let (file, sender) = (self.file.clone(), self.sender.clone());
        tokio::task::spawn_local(async move {
            let read = match blocking::run("btd-reload", move || read(&file)).await {
                Ok(Some(read)) => read,
                Ok(None) => Err(Refused::Thread("it has ended".to_owned())),
                Err(error) => Err(Refused::Thread(error.to_string())),
            };
            let _ = sender.send(read); // Nobody listens any more when btd is stopping.
        });
    }
}

fn read(file: &std::path::Path) -> Result<Config, Refused> {
    let config = Config::check(file)?;
    for watch in config.watch.iter().filter(|watch| watch.example) {
        example::make_if_empty(watch)?;
    }
    Ok(config)
}

impl Supervisor<'_> {
    /// The configuration is to be read again.
    pub(super) fn on_reload(&mut self) {
        self.reload.begin();
    }

    /// It was.
    pub(super) fn on_config(&mut self, read: Result<Config, Refused>) {
        match read {
            Ok(config) => self.take_over(config),
            Err(error) => {
                tracing::error!("SIGHUP: btd goes on with the configuration it had: {error}");
                self.end_reload(Some(error.to_string()));
            }
        }
    }

    fn end_reload(&mut self, refused: Option<String>) {
        metrics::publish_reload(refused.is_none());
        self.reload.refused = refused;
        self.reload.is_running = false;
        if self.ready {
            service_manager::ready(&self.status());
        }
        if std::mem::take(&mut self.reload.is_wanted) {
            self.reload.begin();
        }
    }

    fn take_over(&mut self, config: Config) {
        let (config, waiting) = self.config.taking_over(config);
        let old = std::mem::replace(&mut self.config, config);
        logging::set_level(self.config.log_level);
        self.shards.keep_to(&self.config);
        self.throttle.set_rate(self.config.storage.check_rate);
        self.take_over_rates();
        if self.config.limits.upload_rate_per_torrent != old.limits.upload_rate_per_torrent {
            self.keep_to_own_rates();
        }
        if let (Some(tracked), Some(plan)) = (&mut self.tracked, &self.config.tracker)
            && let Some(lists) = tracked.take_over(plan)
        {
            self.tasks.push(tokio::task::spawn_local(lists));
        }
        let mut finds_others = self.config.announce.trackers != old.announce.trackers;
        if self.config.announce != old.announce {
            self.announcer.take_over(&self.config.announce);
        }
        finds_others |= self.take_over_folders(self.config.watch.clone());
        let waiting = waiting.join(", ");
        self.reload.then = Some(Then { finds_others, waiting });
        if self.reload.steps.is_empty() {
            self.go_on_reloading();
        }
    }

    /// Whether [`Supervisor::go_on_reloading`] has something to do.
    pub(super) fn is_reloading(&self) -> bool {
        self.reload.then.is_some()
    }

    /// Does a little of what is to be done with watch folders: one may have had 100,000 torrents. Those that are opened come
    /// after those that are closed are empty, or a torrent that comes from the same file again would be taken for the old one.
    pub(super) fn go_on_reloading(&mut self) {
        match self.reload.steps.front_mut() {
            Some(Step::Empty { files, why }) => {
                let why = *why;
                let some: Vec<Arc<Path>> = files.take(LEAVING_MAX).collect();
                if some.len() < LEAVING_MAX {
                    self.reload.steps.pop_front();
                }
                for file in some {
                    self.leave_with_folder(&file, why);
                }
                self.publish_counts();
            }
            Some(Step::Open(_)) => {
                if let Some(Step::Open(watch)) = self.reload.steps.pop_front() {
                    self.folders.open(watch);
                    self.follow_places();
                    self.follow_scrubs();
                }
            }
            None => {}
        }
        if self.reload.steps.is_empty()
            && let Some(Then { finds_others, waiting }) = self.reload.then.take()
        {
            // Those that were closed are watched no more.
            self.follow_places();
            self.follow_scrubs();
            if finds_others {
                self.look_for_more();
            }
            self.publish_counts();
            match waiting.as_str() {
                "" => tracing::info!("SIGHUP: the configuration was read again and is in force"),
                keys => tracing::warn!(
                    "SIGHUP: the configuration was read again and is in force, but for what needs a restart: {keys}"
                ),
            }
            self.end_reload(None);
        }
    }

    /// A torrent leaves with its folder. If it is paused it will be when it comes again, as it would after a restart.
    fn leave_with_folder(&mut self, file: &Path, why: &str) {
        let removal = self.torrents.remove(file);
        let kept = match &removal {
            Removal::Gone(info_hash, entry) => {
                let known = self.goals.known(*info_hash);
                // Who was resumed for ever once, and paused by hand since, is paused.
                let pause = match entry.is_paused() {
                    true => known.filter(|pause| *pause != Pause::Never).or(Some(Pause::Asked)),
                    false => known,
                };
                pause.map(|pause| (*info_hash, pause))
            }
            _ => None,
        };
        self.on_removal(removal, || why.to_owned());
        if let Some((info_hash, pause)) = kept {
            if self.goals.keep(info_hash, pause) {
                self.torrents.stay_paused(info_hash);
            }
            self.session.put_pause(info_hash, Some(pause));
        }
    }

    /// Changes folders, and plans to close and open some, until they are these. Gives whether torrents may be had from others than before.
    fn take_over_folders(&mut self, wanted: Vec<Watch>) -> bool {
        let mut finds_others = false;
        let mut new = wanted;
        let there: Vec<(usize, Watch)> = self
            .folders
            .open_ones()
            .map(|(number, watch)| (number, watch.clone()))
            .collect();
        for (number, old) in there {
            let place = new.iter().position(|watch| watch.dir == old.dir);
            match place.map(|place| new.remove(place)) {
                Some(watch) if watch == old => {}
                Some(watch) if watch.data_dir == old.data_dir => {
                    if watch.peers != old.peers {
                        self.forget_peers(number);
                        finds_others = true;
                    }
                    let has_other_goals = (watch.seed_ratio, watch.seed_time) != (old.seed_ratio, old.seed_time);
                    self.folders.change(number, watch);
                    if has_other_goals {
                        self.look_at_goals_in(number);
                    }
                }
                // What is known is of other payload: its torrents come anew.
                Some(watch) => {
                    self.close_folder(number, "its payload is elsewhere");
                    self.reload.steps.push_back(Step::Open(watch));
                }
                None => self.close_folder(number, "its watch folder is no longer in the configuration"),
            }
        }
        self.reload.steps.extend(new.into_iter().map(Step::Open));
        finds_others
    }

    /// Closes a folder, and plans to remove its torrents.
    fn close_folder(&mut self, number: usize, why: &'static str) {
        self.folders.close(number);
        self.peers.remove(&number);
        let files = self.torrents.files_in(number).into_iter();
        self.reload.steps.push_back(Step::Empty { files, why });
    }

    /// What is missing of torrents may be had now where it could not before.
    fn look_for_more(&mut self) {
        for job in std::mem::take(&mut self.spoilt) {
            if !self.torrents.is_missing(job.info_hash, job.generation) {
                continue;
            }
            let folder = self.torrents.get(job.info_hash).map(|(folder, _)| folder);
            match folder.is_some_and(|folder| self.downloads_in(folder, job.info_hash)) {
                // What is known to be wrong need not be read again.
                true => self.look_again(Job { trust: true, ..job }),
                false => self.spoilt.push(job),
            }
        }
        for (folder, torrent) in self.torrents.partial() {
            let meta = torrent.shared_meta();
            if torrent.home().is_some() || !self.downloads_in(folder, meta.info_hash) {
                continue;
            }
            let progress = Arc::new(Progress::new(meta.geometry.total_len()));
            if let Some(generation) = self.torrents.check_anew(meta.info_hash, &progress) {
                self.check(folder, generation, (meta.info_hash, meta.into()), true, progress);
            }
        }
    }
}
