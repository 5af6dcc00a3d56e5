//! Line charts.

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{Error, Result};

/// A chart.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    /// A level to compare with, and what it is called.
    pub(super) level: Option<(f64, &'static str)>,
}

/// An axis.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    title: String,
    is_logarithmic: bool,
    span: Option<(f64, f64)>,
}

/// A line.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

impl Axis {
    pub(super) fn linear(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            is_logarithmic: false,
            span: None,
        }
    }

    pub(super) fn logarithmic(title: &str) -> Self {
        Self {
            is_logarithmic: true,
            ..Self::linear(title)
        }
    }

    /// From zero to a little above the largest value.
    pub(super) fn up_to(self, most: f64) -> Self {
        let top = if most > 0.0 { most * 1.05 } else { 1.0 };
        self.spanning(0.0, top)
    }

    pub(super) fn spanning(mut self, least: f64, most: f64) -> Self {
        self.span = Some((least, most));
        self
    }

    /// Where a value lies on it.
    fn place(&self, value: f64) -> f64 {
        if self.is_logarithmic {
            value.max(1e-9).log10()
        } else {
            value
        }
    }

    /// From where to where it goes.
    fn bounds(&self, values: impl Iterator<Item = f64>) -> (f64, f64) {
        if let Some((least, most)) = self.span {
            return (self.place(least), self.place(most));
        }
        let (least, most) = values.fold(
            (f64::INFINITY, f64::NEG_INFINITY),
            |(least, most), value| (least.min(self.place(value)), most.max(self.place(value))),
        );
        match (least.is_finite() && most.is_finite(), self.is_logarithmic) {
            (false, _) => (0.0, 1.0),
            (true, true) => (least.floor(), most.ceil().max(least.floor() + 1.0)),
            (true, false) if least < most => (least.min(0.0), most),
            (true, false) => (least, least + 1.0),
        }
    }

    fn label(&self, place: f64) -> String {
        let value = if self.is_logarithmic {
            10_f64.powf(place)
        } else {
            place
        };
        match value.abs() {
            size if size >= 1e4 && self.is_logarithmic => format!("10^{place:.0}"),
            size if size >= 10.0 || size == 0.0 => format!("{value:.0}"),
            // As many decimals as it takes, but no tail of a binary fraction.
            _ => format!("{value:.4}")
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_owned(),
        }
    }

    /// How many labels it has.
    fn labels(&self, (least, most): (f64, f64)) -> usize {
        if !self.is_logarithmic {
            return 8;
        }
        // One for each power of ten.
        (1..20_i32)
            .find(|count| least + f64::from(*count) > most)
            .map_or(20, |count| usize::try_from(count).unwrap_or(1))
    }
}

/// Draws charts beside each other.
pub(super) fn draw(charts: &[Chart]) -> Result<String> {
    let mut svg = String::new();
    let width = WIDTH * u32::try_from(charts.len()).unwrap_or(1).max(1);
    draw_into(&mut svg, width, charts).map_err(|why| Error::Invalid {
        what: "plot".to_owned(),
        why,
    })?;
    Ok(svg)
}

fn draw_into(svg: &mut String, width: u32, charts: &[Chart]) -> Result<(), String> {
    let text = |error: DrawingAreaErrorKind<_>| format!("cannot be drawn: {error}");
    let root = SVGBackend::with_string(svg, (width, HEIGHT)).into_drawing_area();
    root.fill(&WHITE).map_err(text)?;
    for (area, chart) in root
        .split_evenly((1, charts.len().max(1)))
        .iter()
        .zip(charts)
    {
        draw_one(area, chart).map_err(text)?;
    }
    root.present().map_err(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw_one<'a>(area: &Area<'a>, chart: &Chart) -> Drawn<'a> {
    let all = || chart.lines.iter().flat_map(|line| &line.points);
    let x = chart.x.bounds(all().map(|point| point.0));
    let y = chart.y.bounds(all().map(|point| point.1));
    let mut context = ChartBuilder::on(area)
        .caption(&chart.title, (FONT, 19))
        .margin(14)
        .margin_right(24)
        .x_label_area_size(50)
        .y_label_area_size(68)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
    context
        .configure_mesh()
        .x_desc(&chart.x.title)
        .y_desc(&chart.y.title)
        .x_labels(chart.x.labels(x))
        .y_labels(chart.y.labels(y))
        .x_label_formatter(&|place| chart.x.label(*place))
        .y_label_formatter(&|place| chart.y.label(*place))
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 15))
        .bold_line_style(BLACK.mix(0.12))
        .light_line_style(TRANSPARENT)
        .draw()?;
    if let Some((level, name)) = chart.level {
        let at = chart.y.place(level);
        context.draw_series(DashedLineSeries::new(
            [(x.0, at), (x.1, at)],
            6,
            5,
            BLACK.mix(0.5).stroke_width(1),
        ))?;
        let style = (FONT, 12)
            .into_text_style(area)
            .pos(Pos::new(HPos::Left, VPos::Bottom));
        let inset = x.0 + (x.1 - x.0) * 0.01;
        context.draw_series([Text::new(name, (inset, at), style)])?;
    }
    for (number, line) in chart.lines.iter().enumerate() {
        let colour = PALETTE[number % PALETTE.len()];
        let places: Vec<(f64, f64)> = line
            .points
            .iter()
            .map(|(a, b)| (chart.x.place(*a), chart.y.place(*b)))
            .collect();
        // A mark is a type of its own in plotters, and is drawn on the line and in the legend.
        macro_rules! draw_with {
            ($mark:expr) => {{
                let marks = places.iter().step_by(places.len().div_ceil(MARKS).max(1));
                let path = LineSeries::new(places.iter().copied(), colour.stroke_width(2));
                context
                    .draw_series(path)?
                    .label(&line.name)
                    .legend(move |at| {
                        EmptyElement::at(at)
                            + PathElement::new(vec![(0, 0), (22, 0)], colour.stroke_width(2))
                            + $mark((11, 0))
                    });
                context.draw_series(marks.map(|at| $mark(*at)))?;
            }};
        }
        match number % 5 {
            0 => draw_with!(|at| Circle::new(at, 4, colour.filled())),
            1 => draw_with!(|at| TriangleMarker::new(at, 6, colour.filled())),
            2 => draw_with!(|at| Cross::new(at, 4, colour.stroke_width(2))),
            3 => draw_with!(|at| Circle::new(at, 4, colour.stroke_width(2))),
            // Upside down.
            _ => draw_with!(|at| TriangleMarker::new(at, -6, colour.filled())),
        }
    }
    context
        .configure_series_labels()
        .position(legend_position(chart, x, y))
        .margin(8)
        .legend_area_size(30)
        .label_font((FONT, 13))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()
}

/// The corner in which the legend hides the fewest points.
fn legend_position(chart: &Chart, x: (f64, f64), y: (f64, f64)) -> SeriesLabelPosition {
    let lines = u32::try_from(chart.lines.len()).unwrap_or(u32::MAX);
    let height = (0.09 * f64::from(lines)).min(1.0);
    let letters = chart
        .lines
        .iter()
        .map(|line| line.name.len())
        .max()
        .unwrap_or_default();
    let width = (0.12 + 0.016 * f64::from(u32::try_from(letters).unwrap_or(u32::MAX))).min(1.0);
    let share = |value: f64, (least, most): (f64, f64)| (value - least) / (most - least);
    let hidden = |is_left: bool, is_low: bool| {
        let is_hidden = |point: &&(f64, f64)| {
            let across = share(chart.x.place(point.0), x);
            let up = share(chart.y.place(point.1), y);
            (if is_left {
                across < width
            } else {
                across > 1.0 - width
            }) && (if is_low {
                up < height
            } else {
                up > 1.0 - height
            })
        };
        chart
            .lines
            .iter()
            .flat_map(|line| &line.points)
            .filter(is_hidden)
            .count()
    };
    [
        (hidden(true, false), SeriesLabelPosition::UpperLeft),
        (hidden(false, true), SeriesLabelPosition::LowerRight),
        (hidden(false, false), SeriesLabelPosition::UpperRight),
        (hidden(true, true), SeriesLabelPosition::LowerLeft),
    ]
    .into_iter()
    .min_by_key(|(count, _)| *count)
    .map_or(SeriesLabelPosition::UpperLeft, |(_, position)| position)
}

/// Okabe and Ito's colours, but for black and yellow.
const PALETTE: [RGBColor; 6] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];
const FONT: &str = "sans-serif";
/// Of one chart, in pixels.
const WIDTH: u32 = 620;
const HEIGHT: u32 = 430;
/// About how many marks a line has.
const MARKS: usize = 24;
