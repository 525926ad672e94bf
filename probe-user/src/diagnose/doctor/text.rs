//! The display of a diagnosis, for people.

use super::{Diagnosis, Watched};
use crate::terminal::table::{Cell, Table, Tone};
use crate::terminal::{Colour, escaped};

const INDENT: &str = "  ";

impl Diagnosis {
    /// Tables of the checks. After an arrow, a check that is not ok says what to do.
    pub(in crate::diagnose) fn text(&self, colour: Colour) -> String {
        let mut text = section("machine", colour);
        let mut table = Table::new(&["CHECK", "STATUS", "FOUND -> WHAT TO DO"]);
        for check in &self.machine {
            table.row(check.cells());
        }
        text.push_str(&table.render(INDENT, colour));
        for process in &self.processes {
            text.push_str(&section(&process.title(), colour));
            let mut table = Table::new(&["STEP", "STATUS", "FOUND -> WHAT TO DO"]);
            for step in &process.steps {
                table.row(step.cells());
            }
            text.push_str(&table.render(INDENT, colour));
        }
        if let Some(watched) = &self.watch {
            text.push_str(&section(&format!("calls in {:.1} s", watched.seconds), colour));
            text.push_str(&watched.text(colour));
        }
        text
    }
}

impl Watched {
    fn text(&self, colour: Colour) -> String {
        let mut table = Table::new(&["PID", "COMM", "LIBRARY", "PROBED", "CALLS", "BYTES", "OF"]);
        for one in &self.functions {
            let tone = if one.calls > 0 { Tone::Good } else { Tone::Doubtful };
            table.row(vec![
                Cell::new(&one.pid.to_string()),
                Cell::new(&one.comm),
                Cell::new(&one.library),
                Cell::new(&one.function),
                Cell::new(&one.calls.to_string()).toned(tone),
                Cell::new(&one.bytes.to_string()),
                Cell::new(&one.serves.join(" ")),
            ]);
        }
        let mut text = table.render(INDENT, colour);
        if self.functions.iter().any(|one| one.calls == 0) {
            text.push_str(INDENT);
            text.push_str(
                "0 calls: nothing was sent or received during that time (a call that waits for its peer is \
                 counted when it returns), or the process uses another library: cause some traffic and watch \
                 again, or see what else it maps with `ctrace inspect`\n",
            );
        }
        if self.lost > 0 {
            let lost =
                format_args!("{INDENT}{} calls were lost: the ring buffer was full\n", self.lost).to_string();
            text.push_str(&lost);
        }
        text
    }
}

fn section(title: &str, colour: Colour) -> String {
    format!("{}\n", Tone::Strong.paint(&escaped(title), colour))
}
