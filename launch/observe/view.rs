//! The live view: what was heard, seen, advised and decided, with ages and latencies; the state of every node; the expectations.
//!
//! Every line comes from a message that was received from the bus, the node states too: they are read from `/diagnostics`.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Stdout},
    time::{Duration, Instant},
};

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        event::{self, Event, KeyCode, KeyModifiers},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line as TextLine, Span},
    widgets::{Block, Borders, Paragraph},
};

use super::{
    beats::Settled,
    story::{self, Chapter},
    watch::Seen,
};

/// Lines kept of one chapter.
const LINES_KEPT: usize = 64;

/// What the view knows.
#[derive(Default)]
pub struct Board {
    chapters: BTreeMap<Chapter, VecDeque<Told>>,
    nodes: BTreeMap<String, (String, String)>,
    counts: BTreeMap<String, u64>,
    refusals: VecDeque<String>,
    beats: Vec<Settled>,
    hint: String,
}

struct Told {
    when: Instant,
    text: String,
    key: String,
    age: Option<Duration>,
    latency: Option<Duration>,
}

impl Board {
    /// A board with a hint at the bottom.
    pub fn new(hint: String) -> Self {
        Board {
            hint,
            ..Default::default()
        }
    }

    /// Takes note of a message. Returns the line when it says something new, for those who print rather than draw.
    pub fn see(&mut self, seen: &Seen) -> Option<String> {
        *self.counts.entry(seen.topic.clone()).or_default() += 1;
        if seen.type_name == "diagnostic_msgs/msg/DiagnosticArray" {
            return self.diagnostics(seen);
        }
        let line = story::line(seen)?;
        let told = self.chapters.entry(line.chapter).or_default();
        if let Some(last) = told.back_mut()
            && last.key == line.key
        {
            (last.text, last.age, last.latency) = (line.text, seen.age, seen.latency);
            return None;
        }
        if told.len() == LINES_KEPT {
            told.pop_front();
        }
        let printed = format!(
            "{:<8} {}{}",
            line.chapter.name(),
            line.text,
            timing(seen.age, seen.latency)
        );
        told.push_back(Told {
            when: seen.arrived,
            text: line.text,
            key: line.key,
            age: seen.age,
            latency: seen.latency,
        });
        Some(printed)
    }

    /// Takes note of an expectation.
    pub fn settle(&mut self, settled: Settled) {
        self.beats.push(settled);
    }

    fn diagnostics(&mut self, seen: &Seen) -> Option<String> {
        let mut news = None;
        for status in seen.data["status"].as_array().into_iter().flatten() {
            let (name, message) = (
                status["name"].as_str().unwrap_or(""),
                status["message"].as_str().unwrap_or(""),
            );
            if name.contains(": ") {
                let line = format!("{name}: {message}");
                if self.refusals.len() == LINES_KEPT {
                    self.refusals.pop_front();
                }
                self.refusals.push_back(line.clone());
                news = Some(format!("refused  {line}"));
                continue;
            }
            let restarts = value(status, "restarts");
            let rate = value(status, "decode_tokens_per_s");
            let mut detail = message.to_owned();
            if let Some(restarts) = restarts.filter(|count| *count != "0") {
                detail.push_str(&format!(" · {restarts} restarts"));
            }
            if let Some(rate) = rate {
                detail.push_str(&format!(" · {rate} tokens/s"));
            }
            let state = message.split(':').next().unwrap_or("").to_owned();
            let before = self
                .nodes
                .insert(name.to_owned(), (state.clone(), detail.clone()));
            if before.is_none_or(|(old, _)| old != state) {
                news = Some(format!("node     {name} {detail}"));
            }
        }
        news
    }

    fn draw(&self, frame: &mut Frame<'_>, elapsed: Duration, length: Option<Duration>) {
        let [top, stories, below, bottom] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Min(12),
            Constraint::Length(self.below_height()),
            Constraint::Length(2),
        ])
        .areas(frame.area());
        let length = length.map_or(String::new(), |length| {
            format!(" of {:.0}", length.as_secs_f64())
        });
        let messages: u64 = self.counts.values().sum();
        let title = format!(
            " LLMasOS  {:.1}{length} s  {messages} messages on {} topics  q or Ctrl-C ends it",
            elapsed.as_secs_f64(),
            self.counts.len()
        );
        frame.render_widget(
            Paragraph::new(title).style(Style::new().add_modifier(Modifier::REVERSED)),
            top,
        );
        let areas: [_; 4] = Layout::vertical([
            Constraint::Fill(3),
            Constraint::Fill(4),
            Constraint::Fill(3),
            Constraint::Fill(4),
        ])
        .areas(stories);
        for (area, chapter) in areas.into_iter().zip([
            Chapter::Heard,
            Chapter::Seen,
            Chapter::Advised,
            Chapter::Decided,
        ]) {
            let rows = usize::from(area.height.saturating_sub(1));
            let told = self
                .chapters
                .get(&chapter)
                .into_iter()
                .flatten()
                .rev()
                .take(rows);
            let mut lines: Vec<TextLine<'_>> = told.map(told_line).collect();
            lines.reverse();
            frame.render_widget(
                Paragraph::new(lines)
                    .block(Block::new().borders(Borders::TOP).title(chapter.name())),
                area,
            );
        }
        let [nodes, beats] =
            Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)])
                .areas(below);
        let rows: Vec<TextLine<'_>> = self
            .nodes
            .iter()
            .map(|(name, (state, detail))| {
                TextLine::from(vec![
                    Span::styled(format!("{name:<12}"), state_style(state)),
                    Span::raw(detail),
                ])
            })
            .collect();
        frame.render_widget(
            Paragraph::new(rows).block(
                Block::new()
                    .borders(Borders::TOP)
                    .title("nodes (from /diagnostics)"),
            ),
            nodes,
        );
        let room = usize::from(beats.height.saturating_sub(1));
        let rows: Vec<TextLine<'_>> = self
            .beats
            .iter()
            .rev()
            .take(room)
            .rev()
            .map(beat_line)
            .collect();
        frame.render_widget(
            Paragraph::new(rows).block(Block::new().borders(Borders::TOP).title("expected")),
            beats,
        );
        let refused = self
            .refusals
            .back()
            .map_or(String::new(), |line| format!("last refusal: {line}"));
        frame.render_widget(
            Paragraph::new(vec![
                TextLine::from(refused),
                TextLine::from(self.hint.as_str()),
            ]),
            bottom,
        );
    }

    fn below_height(&self) -> u16 {
        (self.nodes.len().max(6) as u16 + 1).min(14)
    }
}

fn told_line(told: &Told) -> TextLine<'_> {
    let dim = Style::new().fg(Color::DarkGray);
    TextLine::from(vec![
        Span::styled(
            format!("{:>5.1} s ago ", told.when.elapsed().as_secs_f64()),
            dim,
        ),
        Span::raw(told.text.as_str()),
        Span::styled(timing(told.age, told.latency), dim),
    ])
}

fn beat_line(settled: &Settled) -> TextLine<'_> {
    let (mark, colour) = if settled.passed {
        ("✓ ", Color::Green)
    } else {
        ("✗ ", Color::Red)
    };
    TextLine::from(vec![
        Span::styled(mark, Style::new().fg(colour)),
        Span::raw(settled.name.as_str()),
    ])
}

fn state_style(state: &str) -> Style {
    Style::new().fg(match state {
        "ready" => Color::Green,
        "failed" => Color::Red,
        _ => Color::Yellow,
    })
}

fn timing(age: Option<Duration>, latency: Option<Duration>) -> String {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    match (age, latency) {
        (Some(age), Some(latency)) => {
            format!("  (age {:.0} ms, transit {:.1} ms)", ms(age), ms(latency))
        }
        (Some(age), None) => format!("  (age {:.0} ms)", ms(age)),
        (None, Some(latency)) => format!("  (transit {:.1} ms)", ms(latency)),
        (None, None) => String::new(),
    }
}

fn value<'a>(status: &'a serde_json::Value, key: &str) -> Option<&'a str> {
    status["values"]
        .as_array()?
        .iter()
        .find(|pair| pair["key"] == key)?["value"]
        .as_str()
}

/// The terminal while the view has it; given back when dropped.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When it refuses.
    pub fn open() -> io::Result<Screen> {
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        Ok(Screen {
            terminal: Terminal::new(CrosstermBackend::new(io::stdout()))?,
        })
    }

    /// Draws the board.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn draw(
        &mut self,
        board: &Board,
        elapsed: Duration,
        length: Option<Duration>,
    ) -> io::Result<()> {
        self.terminal
            .draw(|frame| board.draw(frame, elapsed, length))
            .map(|_| ())
    }

    /// Whether somebody pressed q, Esc or Ctrl-C (which raw mode makes a key) since the last call.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn wants_to_end(&self) -> io::Result<bool> {
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()? {
                let control_c =
                    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                if control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that will not be given back.
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), LeaveAlternateScreen);
    }
}
