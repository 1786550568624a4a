//! The plots of a report, as SVG.

use std::path::Path;

use plotters::prelude::*;
use thiserror::Error;

use super::report::{Report, Waits, median};

const SIZE: (u32, u32) = (900, 480);
const FONT: &str = "sans-serif";

/// Why a plot could not be drawn.
#[derive(Debug, Error)]
pub enum PlotError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("a plot could not be drawn: {0}")]
    Drawing(String),
}

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self::Drawing(error.to_string())
    }
}

/// Draws what there is into `folder`: `rates.svg`, `latency.svg`, `sweep.svg`.
///
/// # Errors
/// [`PlotError`]
pub fn draw(report: &Report, folder: &Path) -> Result<(), PlotError> {
    std::fs::create_dir_all(folder)?;
    if report.series.iter().any(|series| series.unit == "/s") {
        rates(report, &folder.join("rates.svg"))?;
    }
    if !report.waits.is_empty() {
        latency(&report.waits, &folder.join("latency.svg"))?;
    }
    if !report.sweep.is_empty() {
        sweep(report, &folder.join("sweep.svg"))?;
    }
    Ok(())
}

/// A bar for each median, a line for its range.
fn rates(report: &Report, file: &Path) -> Result<(), PlotError> {
    let series: Vec<_> = report.series.iter().filter(|series| series.unit == "/s").collect();
    let top = series.iter().map(|series| series.range().1).fold(1.0, f64::max) * 1.1;
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let names: Vec<&str> = series.iter().map(|series| series.name).collect();
    let mut chart = ChartBuilder::on(&root)
        .caption("Messages per second: median and range", (FONT, 20))
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(64)
        .build_cartesian_2d((0..series.len()).into_segmented(), 0.0..top)?;
    let name = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(index) => (*names.get(*index).unwrap_or(&"")).to_owned(),
        _ => String::new(),
    };
    chart.configure_mesh().disable_x_mesh().x_label_formatter(&name).y_label_formatter(&whole).draw()?;
    for (index, series) in series.iter().enumerate() {
        let color = Palette99::pick(index);
        let (least, most) = series.range();
        let bar = [(SegmentValue::Exact(index), 0.0), (SegmentValue::Exact(index + 1), series.median())];
        let mut bar = Rectangle::new(bar, color.mix(0.6).filled());
        bar.set_margin(0, 0, 16, 16);
        let center = || SegmentValue::CenterOf(index);
        chart.draw_series([bar])?;
        chart.draw_series(LineSeries::new([(center(), least), (center(), most)], BLACK.stroke_width(2)))?;
    }
    Ok(root.present()?)
}

/// Each quantile's wait; both axes by powers of ten.
fn latency(all: &[Waits], file: &Path) -> Result<(), PlotError> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let most = all.iter().map(|waits| milliseconds(waits.histogram.max())).fold(1.0, f64::max);
    let least = all.iter().map(|waits| milliseconds(waits.histogram.min().max(1))).fold(most, f64::min);
    let mut chart = ChartBuilder::on(&root)
        .caption("From a command or query to its reply", (FONT, 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((1.0..10_000.0).log_scale(), (least..most).log_scale())?;
    // How many in one are slower: 2 at the median, 100 at the 99th percentile.
    let percent = |one_in: &f64| format!("{}%", 100.0 - 100.0 / one_in);
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("ms")
        .x_label_formatter(&percent)
        .y_label_formatter(&|ms: &f64| format!("{ms}"))
        .draw()?;
    for (index, waits) in all.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let points = (0..=80).map(|step| 10_f64.powf(f64::from(step) / 20.0)).map(|one_in| {
            (one_in, milliseconds(waits.histogram.value_at_quantile(1.0 - 1.0 / one_in).max(1)))
        });
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(waits.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(root.present()?)
}

/// A line for each number of lanes, over the size of a batch.
fn sweep(report: &Report, file: &Path) -> Result<(), PlotError> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let batches = || report.sweep.iter().map(|point| f64::from(point.batch));
    let (least, most) = (batches().fold(f64::MAX, f64::min), batches().fold(2.0, f64::max));
    let top = report.sweep.iter().map(|point| median(&point.rates)).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(&root)
        .caption("Commands per second by lanes and batch", (FONT, 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((least..most).log_scale().base(2.0), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("ROSTER_BATCH")
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .draw()?;
    let mut lanes: Vec<u32> = report.sweep.iter().map(|point| point.lanes).collect();
    lanes.dedup();
    lanes.sort_unstable();
    lanes.dedup();
    for (index, lanes) in lanes.into_iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let points = report.sweep.iter().filter(|point| point.lanes == lanes);
        let points: Vec<_> = points.map(|point| (f64::from(point.batch), median(&point.rates))).collect();
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(4))?
            .label(format!("{lanes} lanes"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(root.present()?)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

fn whole(number: &f64) -> String {
    format!("{number:.0}")
}
