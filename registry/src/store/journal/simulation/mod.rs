//! Power cuts at every moment of a run, and random runs against a plain map.
//!
//! The disk is simulated; redb, the overlay, the journal, the checkpoint and the recovery are the
//! real ones. After each cut the index must be exactly what one of the seals left, with everything
//! that was acknowledged, its blobs whole, and redb's own check must find nothing.

mod disk;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use self::disk::{Dice, Handle, Image, Op, Survives, crash};
use super::medium::Part;
use super::overlay::PAGE;
use super::{Backend, Core, Entry, JournalError, Limits, recover};
use crate::digest::{Algorithm, digest_of};
use crate::store::step::Steps;

const ROWS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("rows");
const BLOBS: TableDefinition<'_, &str, ()> = TableDefinition::new("blobs");

type Model = BTreeMap<u32, Vec<u8>>;

/// Changes of rows, and a blob: its bytes and whether it is a large one.
#[derive(Debug, Clone)]
struct Change {
    rows: Vec<(u32, Option<Vec<u8>>)>,
    blob: Option<(Vec<u8>, bool)>,
}

impl Change {
    fn random(number: u64, dice: &mut Dice) -> Self {
        let mut rows = vec![(u32::MAX, Some(number.to_le_bytes().to_vec()))];
        for _ in 0..dice.below(4) {
            let key = dice.below(40) as u32;
            let size = if dice.chance(8) {
                9000
            } else {
                dice.below(700)
            };
            let byte = dice.below(256) as u8;
            let value = (!dice.chance(4)).then(|| vec![byte; size as usize]);
            rows.push((key, value));
        }
        let bytes = format!("blob {}", dice.below(1 << 40)).into_bytes();
        let blob = (!dice.chance(3)).then(|| (bytes, dice.chance(2)));
        Self { rows, blob }
    }

    fn apply(&self, model: &mut Model) {
        for (key, value) in &self.rows {
            match value {
                Some(value) => drop(model.insert(*key, value.clone())),
                None => drop(model.remove(key)),
            }
        }
    }

    fn write(&self, database: &Database) -> Result<(), redb::Error> {
        let transaction = crate::store::index::begin_write(database)?;
        {
            let mut rows = transaction.open_table(ROWS)?;
            for (key, value) in &self.rows {
                match value {
                    Some(value) => drop(rows.insert(key, value.as_slice())?),
                    None => drop(rows.remove(key)?),
                }
            }
            let mut blobs = transaction.open_table(BLOBS)?;
            if let Some((bytes, _)) = &self.blob {
                let digest = digest_of(Algorithm::Sha256, bytes);
                blobs.insert(digest.as_ref(), ())?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn entries(&self, number: u64, disk: &Handle) -> Vec<Entry> {
        let entry = self.blob.as_ref().map(|(bytes, large)| {
            let digest = digest_of(Algorithm::Sha256, bytes);
            if *large {
                let name = format!("p-{number}-{digest}");
                disk.stand_in(&name, bytes);
                Entry::Named { digest, name }
            } else {
                let bytes = bytes.clone();
                Entry::Bytes { digest, bytes }
            }
        });
        entry.into_iter().collect()
    }
}

fn limits() -> Limits {
    Limits {
        turn: 40 * PAGE as u64,
        full: 100 * PAGE as u64,
        quiet: Duration::from_secs(3600),
        age: Duration::from_secs(3600),
    }
}

fn fresh() -> Image {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.redb");
    drop(Database::create(&path).unwrap());
    let mut image = Image::default();
    image
        .parts
        .insert(Part::Index, std::fs::read(path).unwrap());
    image
}

struct Run {
    disk: Handle,
    core: Arc<Core>,
    database: Option<Database>,
}

impl Run {
    fn open(disk: &Handle) -> Result<Self, JournalError> {
        let (medium, contents) = (Box::new(disk.clone()), Box::new(disk.clone()));
        let core = recover::open(medium, contents, Steps::default(), limits(), false)?;
        let mut run = Self {
            disk: disk.clone(),
            core: Arc::new(core),
            database: None,
        };
        run.reopen();
        Ok(run)
    }

    fn reopen(&mut self) {
        self.core.retire();
        self.database = None;
        let backend = Backend::new(Arc::clone(&self.core));
        let database = Database::builder()
            .set_cache_size(64 << 10)
            .create_with_backend(backend)
            .unwrap();
        self.database = Some(database);
    }

    /// As the index's group does it; false where it failed and the database was opened again.
    fn commit(&mut self, number: u64, change: &Change) -> bool {
        self.disk.note(Op::Begin(number));
        let committed = change.write(self.database.as_ref().unwrap());
        if committed.is_err() {
            self.core.discard();
            self.reopen();
            return false;
        }
        let entries = change.entries(number, &self.disk);
        let bound = entries.clone();
        let disk = self.disk.clone();
        let name = move || {
            for entry in &bound {
                super::Contents::restore(&disk, entry).unwrap();
            }
            true
        };
        let sealed = self.core.seal(entries, name).is_ok();
        if sealed {
            self.disk.note(Op::Ack(number));
        } else {
            self.reopen();
        }
        sealed
    }

    fn model(&self) -> Model {
        read(self.database.as_ref().unwrap())
    }

    fn close(mut self) {
        self.database = None;
        self.core.close().unwrap();
    }
}

fn read(database: &Database) -> Model {
    let transaction = database.begin_read().unwrap();
    let Ok(rows) = transaction.open_table(ROWS) else {
        return Model::new();
    };
    let rows = rows.iter().unwrap().map(Result::unwrap);
    rows.map(|(key, value)| (key.value(), value.value().to_vec()))
        .collect()
}

/// Every blob that a row names must be whole.
fn check_blobs(database: &Database, image: &Image, what: &str) {
    let transaction = database.begin_read().unwrap();
    let Ok(blobs) = transaction.open_table(BLOBS) else {
        return;
    };
    for row in blobs.iter().unwrap() {
        let (digest, ()) = row.map(|(key, _)| (key, ())).unwrap();
        let digest = config::name::parse_digest(digest.value()).unwrap();
        let bytes = image.finals.get(&digest);
        let whole = bytes.is_some_and(|bytes| digest_of(Algorithm::Sha256, bytes) == digest);
        assert!(whole, "{what}: row without its blob {digest}");
    }
}

/// Recovers an image and checks all but which state it is; answers the state.
fn recovered(image: &Image, what: &str) -> (Handle, Model) {
    let disk = Handle::new(image.clone());
    let mut run = Run::open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let model = run.model();
    let database = run.database.as_mut().unwrap();
    assert!(database.check_integrity().unwrap(), "{what}: damaged");
    let (now, bare) = {
        let sim = disk.sim();
        let mut dice = Dice::new(1);
        let count = sim.ops.len();
        let bare = crash(&sim.base, &sim.ops, count, Survives::Nothing, &mut dice);
        (sim.now.clone(), bare)
    };
    check_blobs(run.database.as_ref().unwrap(), &now, what);
    // What a recovery has brought home is durable at once.
    check_blobs(run.database.as_ref().unwrap(), &bare, what);
    (disk, model)
}

/// A run with checkpoints beside the commits; answers the disk and the states after each batch.
fn record_run(seed: u64, batches: u64, image: Image) -> (Handle, Vec<Model>) {
    let disk = Handle::new(image);
    let mut run = Run::open(&disk).unwrap();
    run.core.turns().threaded = true;
    let mut states = vec![run.model()];
    let done = AtomicBool::new(false);
    let core = Arc::clone(&run.core);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                core.checkpoint().unwrap();
                std::thread::yield_now();
            }
        });
        let mut dice = Dice::new(seed);
        for number in 1..=batches {
            let change = Change::random(number, &mut dice);
            let mut model = states.last().unwrap().clone();
            change.apply(&mut model);
            states.push(model);
            assert!(run.commit(number, &change));
            // Two full segments and a batch each.
            let bound = 3 * limits().full as usize;
            assert!(run.core.overlay().bytes() <= bound);
        }
        done.store(true, Ordering::SeqCst);
    });
    run.core.turns().threaded = false;
    run.close();
    (disk, states)
}

/// The last batch that was begun and the last that was acknowledged.
fn progress(ops: &[Op]) -> (u64, u64) {
    let (mut begun, mut acknowledged) = (0, 0);
    for op in ops {
        match op {
            Op::Begin(number) => begun = *number,
            Op::Ack(number) => acknowledged = *number,
            _ => {}
        }
    }
    (begun, acknowledged)
}

/// A seal's order of what a state must be.
fn check_state(model: &Model, states: &[Model], ops: &[Op], what: &str) {
    let (begun, acknowledged) = progress(ops);
    let fits = (acknowledged..=begun).any(|number| states[number as usize] == *model);
    assert!(
        fits,
        "{what}: not a state between {acknowledged} and {begun}"
    );
}

fn cut_everywhere(seed: u64, batches: u64) -> usize {
    let (disk, states) = record_run(seed, batches, fresh());
    let (base, ops) = {
        let sim = disk.sim();
        (sim.base.clone(), sim.ops.clone())
    };
    let turns = ops.iter().filter(|op| matches!(op, Op::Settle(_))).count();
    assert!(turns > 2, "no checkpoint in the run");
    let mut dice = Dice::new(seed + 1);
    let mut cuts = 0;
    for count in 0..=ops.len() {
        for survives in [Survives::Nothing, Survives::All, Survives::Some] {
            let what = format!("seed {seed}, cut {count} of {}, {survives:?}", ops.len());
            let image = crash(&base, &ops, count, survives, &mut dice);
            let (second, model) = recovered(&image, &what);
            check_state(&model, &states, &ops[..count], &what);
            cuts += 1;
            if survives == Survives::Some {
                cuts += cut_again(&second, &states, &ops[..count], &what, &mut dice);
            }
        }
    }
    cuts
}

/// The power goes again while the recovery is at work.
fn cut_again(disk: &Handle, states: &[Model], ops: &[Op], what: &str, dice: &mut Dice) -> usize {
    let sim = disk.sim();
    for _ in 0..2 {
        let count = dice.below(sim.ops.len() as u64 + 1) as usize;
        let what = format!("{what}, again at {count} of {}", sim.ops.len());
        let image = crash(&sim.base, &sim.ops, count, Survives::Some, dice);
        let (_, model) = recovered(&image, &what);
        check_state(&model, states, ops, &what);
    }
    2
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing() {
    let cuts: usize = (1..=1).map(|seed| cut_everywhere(seed, 12)).sum();
    println!("{cuts} power cuts survived");
}

/// The process is killed at every operation, the next one recovers what it finds in the kernel's
/// memory, and the power goes while it is at it or afterwards. With `failing` the operation at which
/// it is killed was a sync that failed: then the kernel takes for written what it has.
fn kill_and_cut(seed: u64, failing: bool) -> usize {
    let (disk, states) = record_run(seed, 6, fresh());
    let (base, ops) = {
        let sim = disk.sim();
        (sim.base.clone(), sim.ops.clone())
    };
    let mut dice = Dice::new(seed + 2);
    let mut cuts = 0;
    for kill in 0..=ops.len() {
        let mut before = ops[..kill].to_vec();
        if failing && !before.last_mut().is_some_and(fail) {
            continue;
        }
        let what = format!(
            "seed {seed}, killed at {kill} of {}, failing: {failing}",
            ops.len()
        );
        let disk = Handle::killed(&base, &before);
        let run = Run::open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        check_state(&run.model(), &states, &before, &what);
        drop(run);
        let after = disk.sim().ops.clone();
        for _ in 0..6 {
            let count = kill + dice.below((after.len() - kill) as u64 + 1) as usize;
            let what = format!("{what}, cut at {count} of {}", after.len());
            let survives =
                [Survives::Nothing, Survives::All, Survives::Some][dice.below(3) as usize];
            let image = crash(&base, &after, count, survives, &mut dice);
            let (_, model) = recovered(&image, &what);
            check_state(&model, &states, &before, &what);
            cuts += 1;
        }
    }
    cuts
}

/// Makes a sync one that failed; false for anything else.
fn fail(op: &mut Op) -> bool {
    *op = match op {
        Op::Sync(part) => Op::FailedSync(*part),
        Op::Settle(digests) => Op::FailedSettle(std::mem::take(digests)),
        _ => return false,
    };
    true
}

#[test]
fn a_power_cut_during_the_start_after_a_kill_loses_nothing() {
    let cuts: usize = (1..=3).map(|seed| kill_and_cut(seed, false)).sum();
    println!("{cuts} power cuts survived");
}

#[test]
fn a_failed_sync_that_ends_the_process_loses_nothing_acknowledged() {
    let cuts: usize = (1..=8).map(|seed| kill_and_cut(seed, true)).sum();
    println!("{cuts} power cuts survived");
}

/// The head of the next segment stands although writing it failed: what is sealed afterwards must
/// not go behind it unseen.
#[test]
fn a_turn_that_failed_takes_nothing_away() {
    let mut dice = Dice::new(5);
    let disk = Handle::new(fresh());
    let mut run = Run::open(&disk).unwrap();
    let mut model = run.model();
    for number in 1..=2 {
        let change = Change::random(number, &mut dice);
        assert!(run.commit(number, &change));
        change.apply(&mut model);
        if number == 1 {
            disk.sim().faults = Some((1, Dice::new(1)));
            run.core.turn(&mut run.core.turns()).unwrap_err();
            disk.sim().faults = None;
        }
    }
    let (base, ops) = {
        let sim = disk.sim();
        (sim.base.clone(), sim.ops.clone())
    };
    let image = crash(&base, &ops, ops.len(), Survives::All, &mut dice);
    assert_eq!(recovered(&image, "after a failed turn").1, model);
}

/// Both segments hold what is not at home, and the older one is damaged: no part of it may pass for
/// the whole.
#[test]
fn a_damaged_segment_is_refused() {
    let (disk, _) = record_run(3, 24, fresh());
    let sim = disk.sim();
    let turned = |op: &Op| matches!(op, Op::Settle(_));
    let count = sim.ops.iter().position(turned).unwrap();
    let mut dice = Dice::new(1);
    let mut image = crash(&sim.base, &sim.ops, count, Survives::All, &mut dice);
    assert!(Run::open(&Handle::new(image.clone())).is_ok());
    let older = image.parts.get_mut(&Part::Segment(0)).unwrap();
    older[3 * PAGE] ^= 1;
    let error = Run::open(&Handle::new(image)).err().unwrap();
    assert!(matches!(error, JournalError::Damaged { number: 0 }));
}

/// Random batches, faults, cuts and reopens against a map.
fn live(seed: u64) {
    let mut dice = Dice::new(seed);
    let mut image = fresh();
    let mut model = Model::new();
    let mut number = 0;
    for episode in 0..6 {
        let what = format!("seed {seed}, episode {episode}");
        let disk = Handle::new(image);
        let mut run = Run::open(&disk).unwrap();
        assert_eq!(run.model(), model, "{what}: reopened");
        if dice.chance(2) {
            let faults = Dice::new(seed * 31 + episode);
            disk.sim().faults = Some((20 + dice.below(60), faults));
        }
        // Batches since the last acknowledged one, each of which may stand or not.
        let mut open: Vec<Change> = Vec::new();
        for _ in 0..dice.below(40) {
            number += 1;
            let change = Change::random(number, &mut dice);
            if run.commit(number, &change) {
                change.apply(&mut model);
                open.clear();
            } else {
                open.push(change);
            }
            assert_eq!(run.model(), model, "{what}: batch {number}");
            if dice.chance(6) {
                let mut turns = run.core.turns();
                if turns.frozen.is_none() {
                    let _ = run.core.turn(&mut turns);
                }
                drop(turns);
                let _ = run.core.checkpoint();
            }
        }
        disk.sim().faults = None;
        if dice.chance(3) {
            run.close();
            open.clear();
            // A plain redb file now.
            let sim = disk.sim();
            assert_eq!(sim.now.parts.get(&Part::Segment(0)).map(Vec::len), Some(0));
        }
        let sim = disk.sim();
        // The power goes when all is said, but nothing more is synced.
        let survives = [Survives::Nothing, Survives::All, Survives::Some][dice.below(3) as usize];
        image = crash(&sim.base, &sim.ops, sim.ops.len(), survives, &mut dice);
        drop(sim);
        let (_, found) = recovered(&image, &what);
        let mut allowed = open.iter().map(|change| {
            let mut with = model.clone();
            change.apply(&mut with);
            with
        });
        if found != model {
            assert!(allowed.any(|with| with == found), "{what}: lost something");
            model = found;
        }
        let lasts = recovered(&image, &what);
        assert_eq!(lasts.1, model, "{what}: recovered twice");
    }
}

#[test]
fn random_runs_with_faults_and_cuts_agree_with_a_map() {
    for seed in 1..=40 {
        live(seed);
    }
}
