//! A disk that loses power: from the shim's log, the images that could be found afterwards.
//!
//! What was synced is there. Of what was written since, any part may be: nothing, some whole writes in any order, torn
//! ones in sectors. Names (made, renamed, removed) are durable once their directory is synced; before that a prefix of
//! their changes may be there. What a failed sync covered may be gone whatever later syncs say.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use crate::judge::{Said, judge};

const SECTOR: usize = 512;

pub struct Op {
    kind: u8,
    file: u32,
    at: u64,
    bytes: Vec<u8>,
}

impl Op {
    pub fn is_failed_sync(&self) -> bool {
        self.kind == b'F'
    }

    /// Whether the shim counts it: opening counts only where it makes a file.
    pub fn is_counted(&self) -> bool {
        match self.kind {
            b'M' => false,
            b'O' => self.at == 0,
            _ => true,
        }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }
}

pub fn read(log: &Path) -> Vec<Op> {
    let log = std::fs::read(log).unwrap();
    let (mut ops, mut rest) = (Vec::new(), &log[..]);
    while let Some((head, more)) = rest.split_at_checked(17) {
        let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let Some((bytes, more)) = more.split_at_checked(number(13) as usize) else {
            break;
        };
        ops.push(Op {
            kind: head[0],
            file: number(1),
            at: u64::from_le_bytes(head[5..13].try_into().unwrap()),
            bytes: bytes.to_vec(),
        });
        rest = more;
    }
    ops
}

enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

/// A file's bytes: what is surely there, and what has been done since.
#[derive(Default)]
struct File {
    synced: Vec<u8>,
    since: Vec<Change>,
    /// What a failed sync covered: the kernel calls it clean, no later sync writes it.
    forgotten: Vec<Change>,
}

enum Naming {
    Made(PathBuf, usize),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

#[derive(Default)]
struct Disk {
    files: Vec<File>,
    names: HashMap<PathBuf, usize>,
    /// Changes of names since the directory was synced.
    namings: Vec<Naming>,
    /// Names as the running process sees them.
    seen: HashMap<PathBuf, usize>,
    open: HashMap<u32, Option<usize>>,
    dir: PathBuf,
}

/// How much of what was not synced is on an image.
#[derive(Clone, Copy)]
enum Luck {
    Nothing,
    Everything,
    Some(u64),
}

impl Disk {
    fn over(backlog: &Path, dir: &Path) -> Self {
        let mut disk = Disk {
            dir: dir.to_owned(),
            ..Disk::default()
        };
        for entry in std::fs::read_dir(backlog).unwrap() {
            let entry = entry.unwrap();
            let file = disk.make(std::fs::read(entry.path()).unwrap());
            disk.names.insert(dir.join(entry.file_name()), file);
        }
        disk.seen = disk.names.clone();
        disk
    }

    fn make(&mut self, synced: Vec<u8>) -> usize {
        self.files.push(File {
            synced,
            ..File::default()
        });
        self.files.len() - 1
    }

    fn pass(&mut self, op: &Op) {
        match op.kind {
            b'O' => self.opened(op),
            b'W' => self.since(op, Change::Write(op.at, op.bytes.clone())),
            b'T' => self.since(op, Change::Length(op.at)),
            b'S' => match self.open[&op.file] {
                Some(file) => {
                    let file = &mut self.files[file];
                    let all = std::mem::take(&mut file.since);
                    all.iter()
                        .for_each(|change| apply(&mut file.synced, change));
                }
                None => {
                    let all = std::mem::take(&mut self.namings);
                    all.iter().for_each(|naming| name(&mut self.names, naming));
                }
            },
            b'F' => {
                if let Some(file) = self.open[&op.file] {
                    let file = &mut self.files[file];
                    file.forgotten.append(&mut file.since);
                }
            }
            b'R' => {
                let (from, to) = op.text().split_once('\n').unwrap();
                self.named(Naming::Renamed(from.into(), to.into()));
            }
            b'U' => self.named(Naming::Removed(op.text().into())),
            _ => {}
        }
    }

    fn opened(&mut self, op: &Op) {
        let path = PathBuf::from(op.text());
        if path == self.dir {
            self.open.insert(op.file, None);
            return;
        }
        let file = match self.seen.get(&path) {
            Some(file) => *file,
            None => {
                let file = self.make(Vec::new());
                self.named(Naming::Made(path, file));
                file
            }
        };
        self.open.insert(op.file, Some(file));
    }

    fn since(&mut self, op: &Op, change: Change) {
        let file = self.open[&op.file].expect("a directory is not written");
        self.files[file].since.push(change);
    }

    fn named(&mut self, naming: Naming) {
        name(&mut self.seen, &naming);
        self.namings.push(naming);
    }

    /// Writes an image of the disk into `dir`.
    fn image(&self, dir: &Path, luck: Luck) {
        let mut dice = match luck {
            Luck::Some(seed) => fastrand::Rng::with_seed(seed),
            _ => fastrand::Rng::with_seed(0),
        };
        let mut names = self.names.clone();
        let durable = match luck {
            Luck::Nothing => 0,
            Luck::Everything => self.namings.len(),
            Luck::Some(_) => dice.usize(..=self.namings.len()),
        };
        for naming in &self.namings[..durable] {
            name(&mut names, naming);
        }
        for (path, file) in names {
            let file = &self.files[file];
            let mut bytes = file.synced.clone();
            for change in file.forgotten.iter().chain(&file.since) {
                match (luck, change) {
                    (Luck::Nothing, _) => {}
                    (Luck::Everything, change) => apply(&mut bytes, change),
                    (Luck::Some(_), change) => match (dice.u8(0..4), change) {
                        (0, _) => {}
                        (1, Change::Write(at, written)) => {
                            tear(&mut bytes, *at, written, &mut dice)
                        }
                        (_, change) => apply(&mut bytes, change),
                    },
                }
            }
            std::fs::write(dir.join(path.strip_prefix(&self.dir).unwrap()), bytes).unwrap();
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, written) => put(bytes, *at as usize, written),
        Change::Length(length) => bytes.resize(*length as usize, 0),
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, written: &[u8]) {
    if bytes.len() < at + written.len() {
        bytes.resize(at + written.len(), 0);
    }
    bytes[at..at + written.len()].copy_from_slice(written);
}

/// Some sectors of a write, the others as they were.
fn tear(bytes: &mut Vec<u8>, at: u64, written: &[u8], dice: &mut fastrand::Rng) {
    for (nth, sector) in written.chunks(SECTOR).enumerate() {
        if dice.bool() {
            put(bytes, at as usize + nth * SECTOR, sector);
        }
    }
}

fn name(names: &mut HashMap<PathBuf, usize>, naming: &Naming) {
    match naming {
        Naming::Made(path, file) => drop(names.insert(path.clone(), *file)),
        Naming::Renamed(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Naming::Removed(path) => drop(names.remove(path)),
    }
}

/// Cuts the power after every operation, each time with other luck, and judges what is found. Returns how many.
pub fn fail_everywhere(backlog: &(tempfile::TempDir, Said), dir: &Path, log: &Path) -> usize {
    let ops = read(log);
    let mut disk = Disk::over(backlog.0.path(), dir);
    let (mut said, mut heard) = (backlog.1.clone(), String::new());
    let mut images = 0;
    for (nth, op) in ops.iter().enumerate() {
        if op.kind == b'M' {
            heard.push_str(op.text());
            while let Some((line, rest)) = heard.split_once('\n') {
                said.hear(line);
                heard = rest.to_owned();
            }
            continue;
        }
        disk.pass(op);
        // Just after a sync nothing is open, and one image says all.
        let lucks: &[Luck] = match (op.kind, nth % 4) {
            (b'S', _) => &[Luck::Nothing],
            (_, 0) => &[Luck::Nothing],
            (_, 2) => &[Luck::Everything],
            _ => &[Luck::Some(nth as u64)],
        };
        for luck in lucks {
            let image = crate::scratch();
            disk.image(image.path(), *luck);
            judge(
                image.path(),
                &said,
                &format!("power lost after operation {nth}"),
            );
            images += 1;
        }
    }
    images
}
