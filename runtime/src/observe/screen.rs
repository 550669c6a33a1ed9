//! `pegasus top` on a terminal.

use super::board::{Board, HEADINGS, Order};
use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table, TableState};
use std::io;
use std::time::{Duration, Instant};

/// Columns of text; the others are numbers, to the right.
const TEXT_COLUMNS: usize = 3;

/// What is on the screen.
#[derive(Debug)]
struct Screen {
    board: Board,
    order: Order,
    table: TableState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reaction {
    Nothing,
    Redraw,
    Leave,
}

/// Shows what `next` gives, anew after each `interval`, until the user leaves or `next` gives no more.
pub fn show<E: From<io::Error>>(
    interval: Duration,
    mut next: impl FnMut() -> Result<Option<Board>, E>,
) -> Result<(), E> {
    let Some(first) = next()? else {
        return Ok(());
    };
    let mut terminal = ratatui::try_init()?;
    let shown = run(&mut terminal, first, interval, &mut next);
    let restored = ratatui::try_restore();
    shown?;
    Ok(restored?)
}

fn run<E: From<io::Error>>(
    terminal: &mut DefaultTerminal,
    first: Board,
    interval: Duration,
    next: &mut impl FnMut() -> Result<Option<Board>, E>,
) -> Result<(), E> {
    let mut screen = Screen::new(first);
    loop {
        let refresh_at = Instant::now() + interval;
        loop {
            terminal.draw(|frame| screen.draw(frame))?;
            if screen.wait(refresh_at)? == Reaction::Leave {
                return Ok(());
            }
            if Instant::now() >= refresh_at {
                break;
            }
        }
        match next()? {
            Some(board) => screen.replace(board),
            None => return Ok(()),
        }
    }
}

impl Screen {
    fn new(board: Board) -> Self {
        let mut screen = Screen {
            board: Board::default(),
            order: Order::Cpu,
            table: TableState::default(),
        };
        screen.replace(board);
        screen
    }

    fn replace(&mut self, board: Board) {
        self.board = board;
        self.board.sort(self.order);
    }

    /// Reacts to what the user does until `deadline`, or until the screen has to be drawn again.
    fn wait(&mut self, deadline: Instant) -> io::Result<Reaction> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !event::poll(left)? {
                return Ok(Reaction::Nothing);
            }
            let reaction = match event::read()? {
                Event::Key(key) => self.react(key),
                Event::Resize(..) => Reaction::Redraw,
                _ => Reaction::Nothing,
            };
            if reaction != Reaction::Nothing {
                return Ok(reaction);
            }
        }
    }

    fn react(&mut self, key: KeyEvent) -> Reaction {
        if key.kind == KeyEventKind::Release {
            return Reaction::Nothing;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Reaction::Leave,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Reaction::Leave;
            }
            KeyCode::Char('s') => {
                self.order = self.order.next();
                self.board.sort(self.order);
            }
            KeyCode::Down => self.scroll(1),
            KeyCode::Up => self.scroll(-1),
            KeyCode::PageDown => self.scroll(10),
            KeyCode::PageUp => self.scroll(-10),
            _ => return Reaction::Nothing,
        }
        Reaction::Redraw
    }

    fn scroll(&mut self, rows: isize) {
        let last = self.board.rows.len().saturating_sub(1);
        *self.table.offset_mut() = self.table.offset().saturating_add_signed(rows).min(last);
    }

    fn draw(&mut self, frame: &mut Frame) {
        let areas = Layout::vertical([
            Constraint::Length(1),
            Constraint::Min(0),
            Constraint::Length(1),
        ]);
        let [top, middle, bottom] = areas.areas(frame.area());
        frame.render_widget(Line::from(self.board.summary.as_str()), top);
        let rows: Vec<_> = self.board.rows.iter().map(|row| row.cells()).collect();
        let widths: [Constraint; HEADINGS.len()] = std::array::from_fn(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            let widest = cells.max().unwrap_or(0).max(HEADINGS[column].len());
            Constraint::Length(u16::try_from(widest).unwrap_or(u16::MAX))
        });
        let headings = Row::new(
            HEADINGS
                .iter()
                .enumerate()
                .map(|(column, text)| cell(column, text)),
        )
        .style(Style::new().add_modifier(Modifier::REVERSED));
        let rows = rows.iter().map(|cells| {
            Row::new(
                cells
                    .iter()
                    .enumerate()
                    .map(|(column, text)| cell(column, text)),
            )
        });
        let table = Table::new(rows, widths).header(headings).column_spacing(2);
        frame.render_stateful_widget(table, middle, &mut self.table);
        let help = format!("q quit   s sorted by {}   arrows scroll", self.order.name());
        frame.render_widget(Line::from(help), bottom);
    }
}

fn cell(column: usize, text: &str) -> Cell<'_> {
    let line = Line::from(text);
    Cell::from(if column < TEXT_COLUMNS {
        line
    } else {
        line.right_aligned()
    })
}

#[cfg(test)]
mod tests {
    use super::super::board::Meter;
    use super::super::sample::Sample;
    use super::super::sample::tests::container;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen() -> Screen {
        let sample = Sample {
            taken: Instant::now(),
            containers: ["one", "two", "three"].map(container).to_vec(),
            instances: Vec::new(),
            unreadable: 0,
        };
        Screen::new(Meter::default().board(sample))
    }

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn all_containers_are_on_it() {
        let shown = drawn(&mut screen(), 160, 10);
        for word in ["CONTAINER", "SERVED/S", "one", "three", "q quit"] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
    }

    #[test]
    fn any_size_is_survived() {
        for (width, height) in [(1, 1), (5, 2), (40, 3), (300, 100)] {
            drawn(&mut screen(), width, height);
        }
    }

    #[test]
    fn keys_do_what_the_last_line_says() {
        let mut screen = screen();
        let mut press = |code| screen.react(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(press(KeyCode::Char('x')), Reaction::Nothing);
        assert_eq!(press(KeyCode::Char('s')), Reaction::Redraw);
        assert_eq!(press(KeyCode::PageDown), Reaction::Redraw);
        assert_eq!(press(KeyCode::Char('q')), Reaction::Leave);
        assert_eq!(screen.order, Order::Calls);
        assert_eq!(screen.table.offset(), 2);
        drawn(&mut screen, 80, 10);
    }
}
