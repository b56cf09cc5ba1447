//! Where events go: a live picture on a terminal, plain lines elsewhere, or JSON lines.
//!
//! Entry points: [`View::choose`], [`View::tell`], [`View::draw`]. Colour adds nothing to the meaning, and `NO_COLOR`
//! switches it off.

use std::io::{IsTerminal, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::event::Event;
use super::follow::{Line, Picture};

/// Columns of a phase; the longest is PostInstall.
const PHASE_WIDTH: usize = 11;

/// Redraws a second that a terminal gets.
const FRAMES: u8 = 10;

/// See the module.
pub enum View {
    /// A picture that is redrawn.
    Live(Live),
    /// A line for each change.
    Plain,
    /// An object for each event.
    Json,
    /// Nothing.
    Silent,
}

impl View {
    /// Live only where a person looks at nothing else.
    pub fn choose(json: bool, stay: bool, verbose: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let is_dumb = set("TERM").is_none_or(|term| term == "dumb");
        if json {
            View::Json
        } else if stay || verbose || is_dumb || !std::io::stdout().is_terminal() {
            View::Plain
        } else {
            View::Live(Live { colour: set("NO_COLOR").is_none(), bars: None })
        }
    }

    /// Tells an event.
    pub fn tell(&mut self, event: Event) -> std::io::Result<()> {
        match self {
            View::Silent => Ok(()),
            View::Plain => say(&event.plain()),
            View::Json => say(&serde_json::to_string(&event)?),
            View::Live(live) => live.tell(&event),
        }
    }

    /// Shows how things stand.
    pub fn draw(&mut self, picture: &Picture) {
        if let View::Live(live) = self {
            live.draw(picture);
        }
    }
}

fn say(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// A bar for the whole and a line for each node.
pub struct Live {
    colour: bool,
    bars: Option<Bars>,
}

struct Bars {
    // Owns the drawing of the others.
    _all: MultiProgress,
    whole: ProgressBar,
    nodes: Vec<(ProgressBar, String)>,
}

impl Live {
    fn tell(&mut self, event: &Event) -> std::io::Result<()> {
        match event {
            // These are in the picture.
            Event::Phase { .. } | Event::Waiting { .. } | Event::Progress { .. } => Ok(()),
            Event::Result(_) => {
                if let Some(bars) = self.bars.take() {
                    bars.leave();
                }
                // The picture leaves the cursor at the end of its last line.
                say(&format!("\n\n{}", event.plain()))
            }
            _ => say(&event.plain()),
        }
    }

    fn draw(&mut self, picture: &Picture) {
        let colour = self.colour;
        let bars = self.bars.get_or_insert_with(|| Bars::new(picture, colour));
        bars.whole.set_length(picture.total);
        bars.whole.set_position(picture.done);
        for ((bar, phase), line) in bars.nodes.iter_mut().zip(&picture.lines) {
            if *phase != line.phase {
                bar.set_style(node_style(&line.phase, colour));
                phase.clone_from(&line.phase);
            }
            bar.set_message(words(line));
        }
    }
}

impl Bars {
    fn new(picture: &Picture, colour: bool) -> Self {
        let target = ProgressDrawTarget::stdout_with_hz(FRAMES);
        let all = MultiProgress::with_draw_target(target);
        let whole = all.add(ProgressBar::new(picture.total));
        let template = if colour {
            "\n[{bar:32.green}] {pos} of {len} nodes  {elapsed}"
        } else {
            "\n[{bar:32}] {pos} of {len} nodes  {elapsed}"
        };
        whole.set_style(style(template).progress_chars("=> "));
        let add = |line: &Line| {
            let bar = all.add(ProgressBar::new_spinner());
            bar.set_style(node_style(&line.phase, colour));
            bar.set_prefix(line.node.clone());
            (bar, line.phase.clone())
        };
        let nodes = picture.lines.iter().map(add).collect();
        Self { _all: all, whole, nodes }
    }

    /// Leaves the last picture on the screen.
    fn leave(&self) {
        for (bar, _) in &self.nodes {
            bar.abandon();
        }
        self.whole.abandon();
    }
}

/// The templates are constants that are known to be good; anything else is drawn plainly.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn node_style(phase: &str, colour: bool) -> ProgressStyle {
    let name = match (phase, colour) {
        (_, false) => "{prefix:10}",
        ("Done", true) => "{prefix:10.green}",
        ("Failed" | "Retrying", true) => "{prefix:10.red}",
        ("" | "Waiting" | "Skipped", true) => "{prefix:10.dim}",
        (_, true) => "{prefix:10.yellow}",
    };
    style(&format!("  {name} {{wide_msg}}"))
}

fn words(line: &Line) -> String {
    let phase = if line.phase.is_empty() { "-" } else { &line.phase };
    format!(
        "{phase:<PHASE_WIDTH$} {:>4}  {}",
        line.since.map(|since| format!("{}s", since.as_secs())).unwrap_or_default(),
        line.reason
    )
}
