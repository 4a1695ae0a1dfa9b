//! Rows for a terminal: one line each, cut to its width; whole and separated by tabs where no one looks.

use std::io::IsTerminal;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// Rows with a name over each column.
pub(super) fn table(names: &[&str], rows: Vec<Vec<String>>) -> String {
    if !std::io::stdout().is_terminal() {
        let mut text = names.join("\t") + "\n";
        for row in rows {
            text += &(row.join("\t") + "\n");
        }
        return text;
    }
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(names.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    format!("{table}\n")
}

/// A value of a page as a cell: what is absent is a dash, and no control character reaches the terminal.
pub(super) fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => return "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A moment without its fraction of a second.
pub(super) fn time(value: &Value) -> String {
    let text = cell(value);
    match text.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => text,
    }
}
