//! Amounts of what a host has and a job needs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Amounts of the divisible resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Processor time, in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Disk space, in bytes.
    pub disk_bytes: u64,
}

impl Resources {
    /// Does `need` fit into `self`?
    #[must_use]
    pub fn fits(&self, need: &Self) -> bool {
        need.cpu_millis <= self.cpu_millis
            && need.memory_bytes <= self.memory_bytes
            && need.disk_bytes <= self.disk_bytes
    }

    /// The sum, or `None` on overflow.
    #[must_use]
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        Some(Self {
            cpu_millis: self.cpu_millis.checked_add(other.cpu_millis)?,
            memory_bytes: self.memory_bytes.checked_add(other.memory_bytes)?,
            disk_bytes: self.disk_bytes.checked_add(other.disk_bytes)?,
        })
    }

    /// The sum; a part that overflows stays at the largest number. For sums of facts that may be absurd.
    #[must_use]
    pub fn saturating_add(&self, other: &Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
        }
    }

    /// The difference, with zero where `other` is larger.
    #[must_use]
    pub fn saturating_sub(&self, other: &Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(other.disk_bytes),
        }
    }

    /// What `need` lacks in `self`, in a sentence fragment; `None` if it fits.
    #[must_use]
    pub fn shortage(&self, need: &Self) -> Option<String> {
        let mut lacks = Vec::new();
        if need.cpu_millis > self.cpu_millis {
            lacks.push(format!(
                "{} of cpu, {} is free",
                Cpu(need.cpu_millis),
                Cpu(self.cpu_millis)
            ));
        }
        if need.memory_bytes > self.memory_bytes {
            lacks.push(format!(
                "{} of memory, {} is free",
                Bytes(need.memory_bytes),
                Bytes(self.memory_bytes)
            ));
        }
        if need.disk_bytes > self.disk_bytes {
            lacks.push(format!(
                "{} of disk, {} is free",
                Bytes(need.disk_bytes),
                Bytes(self.disk_bytes)
            ));
        }
        (!lacks.is_empty()).then(|| format!("needs {}", lacks.join(" and ")))
    }

    /// The shares that `self` is of `whole`: of processor time, memory and disk space. A resource that `whole` does not
    /// have counts as 1 if any of it is used.
    #[must_use]
    pub fn shares(&self, whole: &Self) -> [f64; 3] {
        [
            share(self.cpu_millis, whole.cpu_millis),
            share(self.memory_bytes, whole.memory_bytes),
            share(self.disk_bytes, whole.disk_bytes),
        ]
    }

    /// The largest of the three shares that `self` is of `whole`; a resource that `whole` does not have counts as 1 if
    /// any of it is used.
    #[must_use]
    pub fn dominant_share(&self, whole: &Self) -> f64 {
        share(self.cpu_millis, whole.cpu_millis)
            .max(share(self.memory_bytes, whole.memory_bytes))
            .max(share(self.disk_bytes, whole.disk_bytes))
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of cpu, {} of memory, {} of disk",
            Cpu(self.cpu_millis),
            Bytes(self.memory_bytes),
            Bytes(self.disk_bytes)
        )
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share needs no more than 52 bits"
)]
fn share(part: u64, whole: u64) -> f64 {
    match (part, whole) {
        (0, _) => 0.0,
        (_, 0) => 1.0,
        (part, whole) => part as f64 / whole as f64,
    }
}

struct Cpu(u64);

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} m", self.0)
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        for (unit, size) in UNITS {
            if self.0 >= size {
                let tenths = self.0.saturating_mul(10) / size;
                return match tenths % 10 {
                    0 => write!(f, "{} {unit}", tenths / 10),
                    rest => write!(f, "{}.{rest} {unit}", tenths / 10),
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}
