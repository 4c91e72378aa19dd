// Evaluates rules of alerts with Prometheus' own parser and engine, for the tests of kms-operator.
//
// Standard input has one JSON document: the text of a rule file, more expressions that must parse, and scrapes. Standard
// output has the alerts that fire after the last scrape, each with its labels: {"KmsKeyOverdue": [{"osd": "3"}]}. The rule
// file is checked as promtool checks it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// The time between two evaluations of a rule.
const step = time.Minute

// What the test asks for.
type Question struct {
	// The text of a rule file.
	Rules string `json:"rules"`
	// Expressions that must parse.
	Expressions []string `json:"expressions"`
	Scrapes     []Scrape `json:"scrapes"`
}

// The text of a target, which is the same at each scrape of a time.
type Scrape struct {
	// In seconds since 1970.
	From        int64             `json:"from"`
	Until       int64             `json:"until"`
	Every       int64             `json:"every"`
	ContentType string            `json:"content_type"`
	Text        string            `json:"text"`
	Labels      map[string]string `json:"labels"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var question Question
	if err := json.Unmarshal(text, &question); err != nil {
		return err
	}
	expressions := parser.NewParser(parser.Options{})
	for _, expression := range question.Expressions {
		if _, err := expressions.ParseExpr(expression); err != nil {
			return fmt.Errorf("%s: %w", expression, err)
		}
	}
	groups, faults := rulefmt.Parse([]byte(question.Rules), false, model.UTF8Validation, expressions, slog.New(slog.DiscardHandler))
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	samples, last, err := read(question.Scrapes)
	if err != nil {
		return err
	}
	engine := promql.NewEngine(promql.EngineOpts{
		MaxSamples: 1_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: expressions,
	})
	firing := map[string][]map[string]string{}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			found, err := fires(engine, samples, rule, last)
			if err != nil {
				return fmt.Errorf("%s: %w", rule.Alert, err)
			}
			if len(found) > 0 {
				firing[rule.Alert] = append(firing[rule.Alert], found...)
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(firing)
}

// The labels of the alerts of a rule at a time: of the series that every evaluation before has found for the rule's "for".
func fires(engine *promql.Engine, samples store, rule rulefmt.Rule, at time.Time) ([]map[string]string, error) {
	ctx := context.Background()
	query, err := engine.NewRangeQuery(ctx, samples, nil, rule.Expr, at.Add(-time.Duration(rule.For)), at, step)
	if err != nil {
		return nil, err
	}
	defer query.Close()
	result := query.Exec(ctx)
	if result.Err != nil {
		return nil, result.Err
	}
	matrix, err := result.Matrix()
	if err != nil {
		return nil, err
	}
	found := []map[string]string{}
	for _, series := range matrix {
		if len(series.Floats) == int(time.Duration(rule.For)/step)+1 {
			found = append(found, series.Metric.Map())
		}
	}
	return found, nil
}

// Series by their labels.
type store map[string]*series

type series struct {
	labels  labels.Labels
	samples []chunks.Sample
}

// Parses the scrapes as Prometheus does, with honor_labels. Returns the time of the last one too.
func read(scrapes []Scrape) (store, time.Time, error) {
	found := store{}
	var last time.Time
	for _, scrape := range scrapes {
		if until := time.Unix(scrape.Until, 0); until.After(last) {
			last = until
		}
		lines, err := textparse.New([]byte(scrape.Text), scrape.ContentType, nil, textparse.ParserOptions{})
		if err != nil {
			return nil, last, err
		}
		for {
			entry, err := lines.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, last, err
			}
			if entry != textparse.EntrySeries {
				continue
			}
			_, _, value := lines.Series()
			var own labels.Labels
			lines.Labels(&own)
			builder := labels.NewBuilder(own)
			for name, value := range scrape.Labels {
				if !own.Has(name) {
					builder.Set(name, value)
				}
			}
			whole := builder.Labels()
			key := whole.String()
			if found[key] == nil {
				found[key] = &series{labels: whole}
			}
			// The last sample is at the end.
			for at := scrape.Until - (scrape.Until-scrape.From)/scrape.Every*scrape.Every; at <= scrape.Until; at += scrape.Every {
				found[key].samples = append(found[key].samples, sample{at * 1000, value})
			}
		}
	}
	return found, last, nil
}

func (s store) Querier(int64, int64) (storage.Querier, error) {
	return &storage.MockQuerier{SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
		var chosen []storage.Series
		for _, one := range s {
			fails := func(matcher *labels.Matcher) bool { return !matcher.Matches(one.labels.Get(matcher.Name)) }
			if !slices.ContainsFunc(matchers, fails) {
				chosen = append(chosen, storage.NewListSeries(one.labels, one.samples))
			}
		}
		return &found{series: chosen}
	}}, nil
}
