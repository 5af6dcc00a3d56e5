//! The demo's figures, for people and for comparison from change to change.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::Result;
use comfy_table::{CellAlignment, presets};
use serde_json::{Map, Value, json};

/// Figures in the order they were taken.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<(String, String)>,
    json: Map<String, Value>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            json: Map::new(),
        }
    }

    pub(super) fn seconds(&mut self, key: &str, what: &str, seconds: f64) {
        self.row(what, format!("{seconds:.2} s"));
        self.json.insert(key.to_owned(), rounded(seconds));
    }

    pub(super) fn millis(&mut self, key: &str, what: &str, time: Duration) {
        let millis = time.as_secs_f64() * 1000.0;
        self.row(what, format!("{millis:.1} ms"));
        self.json.insert(key.to_owned(), rounded(millis));
    }

    pub(super) fn number(&mut self, key: &str, what: &str, number: u64) {
        self.row(what, number.to_string());
        self.json.insert(key.to_owned(), json!(number));
    }

    pub(super) fn push(&mut self, app: &str, seconds: f64) {
        self.row(&format!("git push of {app}"), format!("{seconds:.2} s"));
        let pushes = self.json.entry("push_s").or_insert_with(|| json!({}));
        if let Value::Object(pushes) = pushes {
            pushes.insert(app.to_owned(), rounded(seconds));
        }
    }

    /// Memory at rest, by program: the sum over all hosts and the share of one.
    pub(super) fn memory(&mut self, bytes: &BTreeMap<String, u64>, hosts: usize) {
        let mut by_program = Map::new();
        for (program, bytes) in bytes {
            let mib = mib(*bytes);
            self.row(
                &format!("idle memory of {program}"),
                format!("{:.1} MiB ({:.1} a host)", mib, mib / hosts as f64),
            );
            by_program.insert(program.clone(), rounded(mib));
        }
        self.json
            .insert("idle_rss_mib".to_owned(), Value::Object(by_program));
    }

    #[expect(clippy::print_stdout, reason = "the table is what the demo is run for")]
    pub(super) fn print(&self) {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        for (what, figure) in &self.rows {
            table.add_row(vec![what, figure]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("\n{table}\n");
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(path, serde_json::to_string_pretty(&self.json)? + "\n")?;
        Ok(())
    }

    fn row(&mut self, what: &str, figure: String) {
        self.rows.push((what.to_owned(), figure));
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "memory sizes are far below 2^52 bytes"
)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn rounded(number: f64) -> Value {
    json!((number * 1000.0).round() / 1000.0)
}
