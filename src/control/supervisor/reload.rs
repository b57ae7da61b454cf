//! SIGHUP: the configuration is read again, and what can be taken over of it is, without a
//! connection ended but those of torrents whose folder is gone or has its payload elsewhere.
//!
//! It is read and judged on a thread, whole, with the files that it names: what is not right in every line changes
//! nothing. Signals that come meanwhile are one more reload afterwards. What a running btd cannot change is named, and
//! stays as it was; `config::changes` says which keys these are.

use std::path::PathBuf;
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
}

impl Reload {
    /// Reads `file`; what came of it is received from the other end.
    pub(super) fn new(file: PathBuf) -> (Self, mpsc::UnboundedReceiver<Result<Config, Refused>>) {
        let (sender, receiver) = mpsc::unbounded_channel(); // One at a time.
        let reload = Self {
            file,
            sender,
            is_running: false,
            is_wanted: false,
        };
        (reload, receiver)
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
        let is_ok = read.is_ok();
        match read {
            Ok(config) => self.take_over(config),
            Err(error) => tracing::error!("SIGHUP: btd goes on with the configuration it had: {error}"),
        }
        metrics::publish_reload(is_ok);
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
        if finds_others {
            self.look_for_more();
        }
        self.publish_counts();
        match waiting.as_slice() {
            [] => tracing::info!("SIGHUP: the configuration was read again and is in force"),
            keys => tracing::warn!(
                "SIGHUP: the configuration was read again and is in force, but for what needs a restart: {}",
                keys.join(", ")
            ),
        }
    }

    /// Closes, changes and opens folders until they are these. Gives whether torrents may be had from others than before.
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
                    self.folders.open(watch);
                }
                None => self.close_folder(number, "its watch folder is no longer in the configuration"),
            }
        }
        new.into_iter().for_each(|watch| self.folders.open(watch));
        self.follow_places();
        self.follow_scrubs();
        finds_others
    }

    /// Removes its torrents. Those that are paused will be when they come again, as they would after a restart.
    fn close_folder(&mut self, number: usize, why: &str) {
        self.folders.close(number);
        self.peers.remove(&number);
        for file in self.torrents.files_in(number) {
            let removal = self.torrents.remove(&file);
            let kept = match &removal {
                Removal::Gone(info_hash, entry) => {
                    let pause = self.goals.known(*info_hash);
                    let pause = pause.or(entry.is_paused().then_some(Pause::Asked));
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
    }

    /// What is missing of torrents may be had now where it could not before.
    fn look_for_more(&mut self) {
        for job in std::mem::take(&mut self.spoilt) {
            if !self.torrents.is_missing(job.info_hash, job.generation) {
                continue;
            }
            let folder = self.torrents.get(job.info_hash).map(|(folder, _)| folder);
            match folder.is_some_and(|folder| self.downloads_in(folder, &job.meta)) {
                // What is known to be wrong need not be read again.
                true => self.look_again(Job { trust: true, ..job }),
                false => self.spoilt.push(job),
            }
        }
        for (folder, torrent) in self.torrents.partial() {
            let meta = Arc::new(torrent.meta().clone());
            if torrent.home().is_some() || !self.downloads_in(folder, &meta) {
                continue;
            }
            let progress = Arc::new(Progress::new(meta.geometry.total_len()));
            if let Some(generation) = self.torrents.check_anew(meta.info_hash, &progress) {
                self.check(folder, generation, meta, true, progress);
            }
        }
    }
}
