//! Memory and latency over time, drawn.

use std::ops::Range;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::sample::Sample;
use crate::median::median;

const SIZE: (u32, u32) = (900, 620);
/// Points of a line: an hour has 3,600 samples, more than the picture has columns.
const POINTS: usize = 240;
const COLOURS: [RGBColor; 4] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(200, 60, 60),
    RGBColor(150, 150, 150),
];
const TEXT: (&str, u32) = ("sans-serif", 14);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line: its name, and its points by minutes.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Line {
    /// Of `value` over the samples, the median of each stretch.
    fn of(name: &str, samples: &[Sample], value: impl Fn(&Sample) -> Option<f64>) -> Self {
        let stretch = samples.len().div_ceil(POINTS).max(1);
        let points = samples.chunks(stretch).filter_map(|part| {
            let at = part.first()?.at.as_secs_f64() / 60.0;
            Some((at, median(part.iter().filter_map(&value))?))
        });
        Self { name: name.to_owned(), points: points.collect() }
    }

    fn highest(lines: &[Self]) -> f64 {
        lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(0.0, f64::max)
    }
}

/// Draws the samples to an SVG file.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn draw(samples: &[Sample], path: &Path) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    fill(&root, samples).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

fn fill(root: &Area<'_>, samples: &[Sample]) -> Drawn {
    root.fill(&WHITE)?;
    let minutes = 0.0..samples.last().map_or(1.0, |sample| sample.at.as_secs_f64() / 60.0);
    let (above, below) = root.split_vertically(SIZE.1 / 2);
    let resident = [
        Line::of("resident memory, MiB", samples, |sample| Some(sample.resident / 1024.0)),
        Line::of("occupied frames, hundreds", samples, |sample| Some(sample.occupied / 100.0)),
    ];
    let most = Line::highest(&resident) * 1.2;
    let mut chart = ChartBuilder::on(&above)
        .caption("Memory of the comparator", TEXT)
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(minutes.clone(), 0.0..most.max(1.0))?;
    chart.configure_mesh().disable_x_mesh().max_light_lines(1).x_desc("minutes").draw()?;
    lines(&mut chart, &resident, SeriesLabelPosition::MiddleMiddle)?;

    let mut latency: Vec<Line> = Sample::LATENCIES
        .iter()
        .enumerate()
        .map(|(index, name)| Line::of(name, samples, |sample| Some(sample.latency?[index])))
        .collect();
    // Beside the latencies what explains most of their changes.
    latency.push(Line::of("load average of the machine", samples, |it| it.machine));
    latency.retain(|line| !line.points.is_empty());
    let range: Range<f64> = 1.0..Line::highest(&latency).max(100.0) * 2.0;
    let mut chart = ChartBuilder::on(&below)
        .caption("From both guests' sending to arrival at the network, us", TEXT)
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(minutes, range.log_scale())?;
    chart.configure_mesh().disable_x_mesh().max_light_lines(1).x_desc("minutes").draw()?;
    lines(&mut chart, &latency, SeriesLabelPosition::LowerLeft)?;
    root.present()
}

fn lines<'a, Y>(
    chart: &mut ChartContext<
        'a,
        SVGBackend<'a>,
        Cartesian2d<plotters::coord::types::RangedCoordf64, Y>,
    >,
    lines: &[Line],
    names: SeriesLabelPosition,
) -> Drawn
where
    Y: Ranged<ValueType = f64>,
{
    for (line, colour) in lines.iter().zip(COLOURS) {
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), colour))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart.configure_series_labels().position(names).background_style(WHITE.mix(0.8)).draw()?;
    Ok(())
}
