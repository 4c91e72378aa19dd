//! Pictures of figures, as SVG without scripts, fonts or colours of a page around them.

use std::fmt::Write as _;

/// The width of a picture, in units of SVG.
const WIDTH: f64 = 720.0;
/// The space for the names at the left.
const LEFT: f64 = 250.0;
/// The height of one bar with its space.
const ROW: f64 = 26.0;
/// The space above and below the rows.
const MARGIN: f64 = 34.0;

/// A picture of bars, from 0 to the largest value, with a line at `goal`.
pub(super) fn bars(title: &str, rows: &[(String, f64)], goal: Option<f64>, unit: &str) -> String {
    let height = f64::from(u32::try_from(rows.len()).unwrap_or(u32::MAX)).mul_add(ROW, 2.0 * MARGIN);
    let most = rows.iter().map(|(_, value)| *value).chain(goal).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LEFT - 90.0) / most;
    let mut body = String::new();
    let mut y = MARGIN;
    for (name, value) in rows {
        let (width, text) = (value * scale, number(*value));
        let _ = writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{width:.1}\" height=\"16\" class=\"bar\"/>\n\
             <text x=\"{:.1}\" y=\"{:.0}\">{text}{unit}</text>",
            LEFT - 8.0,
            y + 13.0,
            escaped(name),
            y,
            LEFT + width + 6.0,
            y + 13.0,
        );
        y += ROW;
    }
    if let Some(goal) = goal {
        let x = LEFT + goal * scale;
        let _ = writeln!(
            body,
            "<line x1=\"{x:.1}\" y1=\"{:.0}\" x2=\"{x:.1}\" y2=\"{y:.0}\" class=\"goal\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">goal {}{unit}</text>",
            MARGIN - 6.0,
            y + 14.0,
            number(goal),
        );
    }
    picture(title, height, &body)
}

/// A picture of lines over numbers of OSDs, both axes logarithmic, so that a cost in proportion is a straight line of slope 1.
pub(super) fn lines(title: &str, axis: &str, series: &[(String, Vec<(f64, f64)>)]) -> String {
    const HEIGHT: f64 = 340.0;
    const SIDE: f64 = 64.0;
    let points = || series.iter().flat_map(|(_, points)| points.iter().copied());
    let range = |of: fn((f64, f64)) -> f64| {
        let all = || points().map(of).filter(|value| *value > 0.0).map(f64::log10);
        (all().fold(f64::INFINITY, f64::min).floor(), all().fold(f64::NEG_INFINITY, f64::max).ceil())
    };
    let (xs, ys) = (range(|(x, _)| x), range(|(_, y)| y));
    let across = |x: f64| SIDE + (x.log10() - xs.0) / (xs.1 - xs.0).max(1.0) * (WIDTH - SIDE - 190.0);
    let up =
        |y: f64| (HEIGHT - MARGIN) - (y.log10() - ys.0) / (ys.1 - ys.0).max(1.0) * (HEIGHT - 2.0 * MARGIN);
    let mut body = String::new();
    let decades = |(from, to): (f64, f64)| {
        (0..=((to - from) as usize)).map(move |step| 10_f64.powf(from + step as f64)).collect::<Vec<_>>()
    };
    for x in decades(xs) {
        let at = across(x);
        let (top, bottom) = (MARGIN, HEIGHT - MARGIN);
        let _ = writeln!(
            body,
            "<line x1=\"{at:.1}\" y1=\"{top:.1}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\" class=\"grid\"/>\n\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            number(x),
        );
    }
    for y in decades(ys) {
        let (at, right) = (up(y), WIDTH - 190.0);
        let _ = writeln!(
            body,
            "<line x1=\"{SIDE}\" y1=\"{at:.1}\" x2=\"{right:.1}\" y2=\"{at:.1}\" class=\"grid\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            SIDE - 8.0,
            at + 4.0,
            number(y),
        );
    }
    // Lines differ by their dashes too, so that the picture can be read without colours.
    for ((name, points), dash) in series.iter().zip(["none", "8 4", "2 3", "10 3 2 3"]) {
        let path: Vec<String> =
            points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(*y))).collect();
        let (x, y) = points.last().map_or((SIDE, MARGIN), |(x, y)| (across(*x), up(*y)));
        let _ = writeln!(
            body,
            "<polyline points=\"{}\" class=\"line\" stroke-dasharray=\"{dash}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            path.join(" "),
            x + 8.0,
            y + 4.0,
            escaped(name),
        );
    }
    let _ = writeln!(body, "<text x=\"{SIDE}\" y=\"{HEIGHT:.0}\">{}</text>", escaped(axis));
    picture(title, HEIGHT + 8.0, &body)
}

fn picture(title: &str, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">\n<title>{0}</title>\n\
         <style>text{{font:13px sans-serif;fill:#1b1f24}}.bar{{fill:#2f6f9f}}.goal{{stroke:#9a3412;stroke-width:2}}\
         .grid{{stroke:#d0d7de}}.line{{fill:none;stroke:#2f6f9f;stroke-width:2}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"20\" font-weight=\"bold\">{0}</text>\n{body}</svg>\n",
        escaped(title),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// A number with three significant digits.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [(0.95, "0.95"), (12.34, "12.3"), (1234.5, "1234"), (100.0, "100"), (1.0, "1")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_cost_in_proportion_is_a_straight_line() {
        let points = vec![(10.0, 1.0), (100.0, 10.0), (1000.0, 100.0)];
        let picture = lines("seconds", "OSDs", &[("all".to_owned(), points)]);
        let at = picture.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let at: Vec<(f64, f64)> = at
            .split(' ')
            .map(|point| {
                point.split_once(',').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap()
            })
            .collect();
        let slope = |a: (f64, f64), b: (f64, f64)| (b.1 - a.1) / (b.0 - a.0);
        assert!((slope(at[0], at[1]) - slope(at[1], at[2])).abs() < 0.01, "{picture}");
    }

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let rows = [("half <b>".to_owned(), 0.5), ("whole".to_owned(), 1.0)];
        let picture = bars("ratio", &rows, Some(0.95), "");
        assert!(picture.contains("half &lt;b>") && picture.contains("goal 0.95"), "{picture}");
        let widths: Vec<f64> = picture
            .split("class=\"bar\"")
            .filter_map(|part| part.rsplit("width=\"").next()?.split('"').next()?.parse().ok())
            .collect();
        assert!((widths[0] * 2.0 - widths[1]).abs() < 0.2, "{widths:?}");
    }
}
