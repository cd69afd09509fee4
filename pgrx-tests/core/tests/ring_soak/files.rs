//! What the processes of the soak share beside the ring: a board of atomics, and the trail.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap};

/// A file mapped for good.
pub struct Mapping {
    pub base: *mut u8,
    pub len: usize,
}

impl Mapping {
    pub fn create(path: &Path, len: usize) -> Mapping {
        let file = File::create_new(path).expect("a new file");
        file.set_len(len as u64).expect("room for it");
        Mapping::open(path)
    }

    pub fn open(path: &Path) -> Mapping {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.expect("the file");
        let len = file.metadata().expect("its length").len() as usize;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, never unmapped.
        let base = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, &file, 0) };
        Mapping {
            base: base.expect("a mapping").cast(),
            len,
        }
    }
}

/// A producer's place on the board.
#[repr(C, align(64))]
pub struct Place {
    pub pid: AtomicU32,
    /// Odd while it is in the ring's code: what tells whether a hole may be its.
    pub calls: AtomicU64,
    /// Records whose push has returned.
    pub acknowledged: AtomicU64,
    pub dropped: AtomicU64,
}

/// What is seen by all processes. Starts as zeroes, which all of it can be.
#[repr(C)]
pub struct Board<'m> {
    /// 1: producers end; 2: the consumer ends when all is read.
    pub stop: &'m AtomicU64,
    /// Spans given up by consumers.
    pub holes: &'m AtomicU64,
    pub places: &'m [Place],
}

impl Board<'static> {
    pub const PLACES: usize = 20_000;

    pub fn create(directory: &Path) -> Self {
        let len = 128 + Self::PLACES * size_of::<Place>();
        Board::of(Mapping::create(&directory.join("board"), len))
    }

    pub fn open(directory: &Path) -> Self {
        Board::of(Mapping::open(&directory.join("board")))
    }

    fn of(mapping: Mapping) -> Self {
        // SAFETY: the mapping stays, is long enough, and holds nothing but atomics.
        unsafe {
            Board {
                stop: &*mapping.base.cast(),
                holes: &*mapping.base.add(64).cast(),
                places: std::slice::from_raw_parts(mapping.base.add(128).cast(), Self::PLACES),
            }
        }
    }
}

/// Whose record it is. What a payload begins with, and what the trail keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub producer: u64,
    pub number: u64,
}

fn numbers<const N: usize>(bytes: &[u8]) -> [u64; N] {
    std::array::from_fn(|i| {
        let number = bytes[8 * i..8 * i + 8].try_into();
        u64::from_le_bytes(number.expect("8 bytes"))
    })
}

impl Record {
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.producer.to_le_bytes());
        bytes[8..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Record {
        let [producer, number] = numbers(bytes);
        Record { producer, number }
    }

    /// The byte that fills the rest of its payload.
    pub fn filler(self) -> u8 {
        (self.producer * 7 + self.number) as u8 | 1
    }

    /// Reads a payload, and checks that all of it is this record's.
    pub fn of_payload(payload: &[u8]) -> Record {
        let record = Record::of_bytes(payload);
        assert!(payload[16..].iter().all(|b| *b == record.filler()));
        record
    }
}

/// A file of batches, each whole or not there. The position up to which it knows the ring and the
/// records up to there come in the same batch: that makes it exactly once.
pub struct Trail {
    file: File,
    pub records: Vec<Record>,
    pub position: u64,
    /// Sum of all drops told, and the total that the last batch was told with.
    pub dropped: u64,
    pub told: u64,
}

/// Number of records, position, drops, total, and a checksum of them against a torn write.
const BATCH_HEADER: usize = 40;

impl Trail {
    /// Reads what is whole and cuts off the rest.
    pub fn open(directory: &Path) -> Trail {
        let path = directory.join("trail");
        let bytes = std::fs::read(&path).unwrap_or_default();
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&path);
        let mut trail = Trail {
            file: file.expect("the trail"),
            records: Vec::new(),
            position: 0,
            dropped: 0,
            told: 0,
        };
        let mut rest = bytes.as_slice();
        while let Some((header, after)) = rest.split_at_checked(BATCH_HEADER) {
            let [count, position, dropped, told, sum] = numbers(header);
            let records = after.split_at_checked(count as usize * 16);
            let Some((records, after)) = records.filter(|_| sum == !(position ^ count)) else {
                break;
            };
            trail
                .records
                .extend(records.chunks(16).map(Record::of_bytes));
            trail.position = position;
            trail.dropped += dropped;
            trail.told = told;
            rest = after;
        }
        let whole = bytes.len() - rest.len();
        trail.file.set_len(whole as u64).expect("cut the trail");
        trail
    }

    /// One transaction.
    pub fn append(&mut self, records: &[Record], position: u64, dropped: u64, told: u64) {
        let count = records.len() as u64;
        let mut batch = Vec::new();
        for number in [count, position, dropped, told, !(position ^ count)] {
            batch.extend_from_slice(&number.to_le_bytes());
        }
        records.iter().for_each(|r| batch.extend(r.to_bytes()));
        self.file.write_all(&batch).expect("append to the trail");
        self.position = position;
        self.told = told;
    }
}

/// Small and good enough (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % limit
    }
}
