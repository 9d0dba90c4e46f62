//! Latencies: counted in buckets that grow with the value, 64 to each doubling, so that percentiles are within 2 %.

const PART_BITS: u32 = 6;
const PARTS: u64 = 1 << PART_BITS;

/// Values in nanoseconds.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; ((64 - PART_BITS as usize) + 1) * PARTS as usize], total: 0 }
    }

    pub(crate) fn record(&mut self, value: u64) {
        let shift = (63 - (value | PARTS).leading_zeros()) - PART_BITS;
        let index = u64::from(shift) * PARTS + (value >> shift);
        self.counts[index as usize] += 1;
        self.total += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum += count;
        }
        self.total += other.total;
    }

    pub(crate) fn len(&self) -> u64 {
        self.total
    }

    /// The value below which `share` (0 to 1) of all values lie; 0 without values.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                let index = index as u64;
                let shift = (index / PARTS).saturating_sub(1);
                return (index - shift * PARTS) << shift;
            }
        }
        0
    }
}
