//! Bars for the report, as SVG text: ratios to runc on a logarithmic axis.
//!
//! A chart of a dozen bars needs rectangles and words only, which is less than any library for it.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const LABELS_WIDTH: f64 = 300.0;
const MARGIN: f64 = 60.0;
const TOP: f64 = 62.0;
const BAR: f64 = 13.0;
const GAP: f64 = 12.0;
const COLOURS: [&str; 2] = ["#2457a6", "#d08a2e"];

/// One row of a chart.
#[derive(Debug)]
pub struct Bars {
    pub label: String,
    /// One value for each name of the chart; what was not measured has no bar.
    pub values: Vec<Option<f64>>,
    /// Where a mark shows what is wanted.
    pub wanted: Option<f64>,
}

#[derive(Debug)]
pub struct Chart {
    pub title: String,
    pub names: Vec<&'static str>,
    pub rows: Vec<Bars>,
}

/// From values to places.
#[derive(Debug, Clone, Copy)]
struct Axis {
    low: i32,
    high: i32,
}

impl Axis {
    /// Whole powers of ten around all values and 1.
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let usable = values.filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = usable
            .map(f64::log10)
            .fold((0.0, 1.0), |(low, high), value| {
                (f64::min(low, value), f64::max(high, value))
            });
        // Below 1 there is no room for a power when nothing but noise is there.
        let low = if low > -0.05 { 0.0 } else { low.floor() };
        Self {
            low: low as i32,
            high: high.ceil() as i32,
        }
    }

    fn place(self, value: f64) -> f64 {
        let room = WIDTH - LABELS_WIDTH - MARGIN;
        let share = (value.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        LABELS_WIDTH + room * share.clamp(0.0, 1.0)
    }
}

impl Chart {
    /// The whole file.
    pub fn render(&self) -> String {
        let all = self.rows.iter();
        let all = all.flat_map(|row| row.values.iter().copied().chain([row.wanted]));
        let axis = Axis::around(all.flatten());
        let row_height = BAR * self.names.len() as f64 + GAP;
        let bottom = TOP + row_height * self.rows.len() as f64;
        let height = bottom + 34.0;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
             <text x=\"12\" y=\"22\" font-size=\"15\">{}</text>\n",
            escape(&self.title)
        );
        self.legend(&mut text);
        grid(&mut text, axis, bottom);
        for (index, row) in self.rows.iter().enumerate() {
            bars(&mut text, row, axis, TOP + row_height * index as f64);
        }
        text.push_str("</svg>\n");
        text
    }

    fn legend(&self, text: &mut String) {
        let mut x = LABELS_WIDTH;
        for (name, colour) in self.names.iter().zip(COLOURS) {
            let label_x = x + 16.0;
            let _ = writeln!(
                text,
                "<rect x=\"{x}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
                 <text x=\"{label_x}\" y=\"44\">{}</text>",
                escape(name)
            );
            x += 100.0;
        }
        let label_x = x + 16.0;
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"34\" width=\"3\" height=\"12\" fill=\"#b3261e\"/>\
             <text x=\"{label_x}\" y=\"44\">wanted of pegasus</text>"
        );
    }
}

/// A line per power of ten; the one at 1, which is runc, is darker.
fn grid(text: &mut String, axis: Axis, bottom: f64) {
    for power in axis.low..=axis.high {
        let value = 10f64.powi(power);
        let (x, colour) = (axis.place(value), if power == 0 { "#555" } else { "#ddd" });
        let (top, label_y) = (TOP - 6.0, bottom + 16.0);
        let label = if power == 0 {
            "1 (runc)".to_owned()
        } else {
            value.to_string()
        };
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"{colour}\"/>\
             <text x=\"{x:.1}\" y=\"{label_y}\" text-anchor=\"middle\">{label}</text>"
        );
    }
}

/// Bars go from 1, so that what is slower than runc goes the other way.
fn bars(text: &mut String, row: &Bars, axis: Axis, top: f64) {
    let full = BAR * row.values.len() as f64;
    let (label_x, label_y) = (LABELS_WIDTH - 10.0, top + full / 2.0 + 4.0);
    let _ = writeln!(
        text,
        "<text x=\"{label_x}\" y=\"{label_y}\" text-anchor=\"end\">{}</text>",
        escape(&row.label)
    );
    for (index, (value, colour)) in row.values.iter().zip(COLOURS).enumerate() {
        let Some(value) = value else { continue };
        let y = top + BAR * index as f64;
        let (one, end) = (axis.place(1.0), axis.place(*value));
        let (x, width) = (one.min(end), (end - one).abs().max(1.0));
        let (height, number_x, number_y) = (BAR - 2.0, one.max(end) + 5.0, y + BAR - 3.5);
        let _ = writeln!(
            text,
            "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>\
             <text x=\"{number_x:.1}\" y=\"{number_y}\" font-size=\"10\">{value:.2}</text>"
        );
    }
    if let Some(wanted) = row.wanted {
        let (x, y, height) = (axis.place(wanted) - 1.5, top - 2.0, full + 2.0);
        let _ = writeln!(
            text,
            "<rect x=\"{x:.1}\" y=\"{y}\" width=\"3\" height=\"{height}\" fill=\"#b3261e\"/>"
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_the_powers_of_ten() {
        let axis = Axis::around([0.5, 60.0].into_iter());
        assert_eq!((axis.low, axis.high), (-1, 2));
        assert_eq!(axis.place(0.1), LABELS_WIDTH);
        assert_eq!(axis.place(100.0), WIDTH - MARGIN);
        assert!(
            (axis.place(1.0) - axis.place(0.1) - (axis.place(10.0) - axis.place(1.0))).abs() < 1e-9
        );
        let narrow = Axis::around([1.0].into_iter());
        assert_eq!((narrow.low, narrow.high), (0, 1));
    }

    #[test]
    fn a_chart_is_small_and_whole() {
        let row = |label: &str| Bars {
            label: label.to_owned(),
            values: vec![Some(12.5), None],
            wanted: Some(60.0),
        };
        let chart = Chart {
            title: "a < b".to_owned(),
            names: vec!["pegasus", "gVisor"],
            rows: (0..15).map(|_| row("x & y")).collect(),
        };
        let text = chart.render();
        assert!(text.contains("a &lt; b") && text.contains("x &amp; y"));
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert!(text.len() < 60 << 10);
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }
}
