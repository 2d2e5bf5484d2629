package bench

import (
	"fmt"
	"os"
	"text/tabwriter"
)

// figure is one line of a report.
type figure struct {
	name, value string
	bar         string // "" when none is held against it
	met         bool
	note        string
}

// atLeast is a figure that should not be below its bar; format words both.
func atLeast(name, format string, value, bar float64, note string) figure {
	return figure{name, fmt.Sprintf(format, value), ">= " + fmt.Sprintf(format, bar), value >= bar, note}
}

// atMost is a figure that should not be above its bar.
func atMost(name, format string, value, bar float64, note string) figure {
	return figure{name, fmt.Sprintf(format, value), "<= " + fmt.Sprintf(format, bar), value <= bar, note}
}

// plain is a figure without a bar.
func plain(name, format string, value float64, note string) figure {
	return figure{name: name, value: fmt.Sprintf(format, value), note: note}
}

// report prints figures as a table.
func report(title string, figures []figure) error {
	fmt.Printf("\n%s\n\n", title)
	t := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tvalue\tbar\t\tnote")
	for _, f := range figures {
		verdict := ""
		if f.bar != "" {
			if verdict = "missed"; f.met {
				verdict = "met"
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", f.name, f.value, f.bar, verdict, f.note)
	}
	return t.Flush()
}
