package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// completions are the scripts of the shells. Each asks this program for what may come next, so
// that it never falls behind; where nothing may, the shell completes names of files.
var completions = map[string]string{
	"bash": `_sluice() {
	local words
	words=$("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null) || return
	local IFS=$'\n'
	COMPREPLY=($words)
}
complete -o default -o bashdefault -F _sluice sluice
`,
	"zsh": `#compdef sluice
_sluice() {
	local -a found
	found=("${(@f)$("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if [[ -n "${found[1]}" ]]; then
		compadd -a found
	else
		_files
	fi
}
compdef _sluice sluice
`,
	"fish": `function __sluice
	set -l found (sluice complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)
	if set -q found[1]
		printf '%s\n' $found
	else
		__fish_complete_path (commandline -ct)
	end
end
complete -c sluice -f -a '(__sluice)'
`,
}

// CompletionCmd prints a shell's script.
type CompletionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help says where it goes.
func (CompletionCmd) Help() string {
	return "bash: source <(sluice completion bash) in ~/.bashrc. zsh: source <(sluice completion zsh) in ~/.zshrc, after compinit. fish: sluice completion fish > ~/.config/fish/completions/sluice.fish."
}

// Run prints it.
func (c CompletionCmd) Run(env *Env) error {
	_, err := fmt.Fprint(env.Stdout, completions[c.Shell])
	return err
}

// CompleteCmd prints what may come next on a command line, a word a line; the scripts call it.
type CompleteCmd struct {
	Words []string `arg:"" optional:"" help:"The words after sluice, of which the last is begun."`
}

// Run prints it.
func (c CompleteCmd) Run(env *Env, k *kong.Context) error {
	for _, word := range complete(k.Model.Node, c.Words) {
		if _, err := fmt.Fprintln(env.Stdout, word); err != nil {
			return err
		}
	}
	return nil
}

// complete returns what the last of the words may become.
func complete(node *kong.Node, words []string) []string {
	last, at := "", typed{node: node}
	if len(words) > 0 {
		last = words[len(words)-1]
		for _, word := range words[:len(words)-1] {
			at.take(word)
		}
	}
	all := slices.DeleteFunc(at.next(strings.HasPrefix(last, "-")), func(word string) bool {
		return word == "" || !strings.HasPrefix(word, last)
	})
	slices.Sort(all)
	return slices.Compact(all)
}

// typed is where a command line has come to.
type typed struct {
	node    *kong.Node
	args    int        // arguments of the command so far
	pending *kong.Flag // whose value comes next
}

// take goes on by a word that is complete.
func (t *typed) take(word string) {
	switch {
	case t.pending != nil:
		t.pending = nil
	case strings.HasPrefix(word, "-"):
		if f := flagOf(t.node, word); f != nil && !f.IsBool() && !strings.Contains(word, "=") {
			t.pending = f
		}
	default:
		if sub := childOf(t.node, word); sub != nil {
			t.node, t.args = sub, 0
		} else {
			t.args++
		}
	}
}

// next is what may come: a flag's values, flags, or commands and an argument's values.
func (t *typed) next(flag bool) (all []string) {
	switch {
	case t.pending != nil:
		return t.pending.EnumSlice()
	case flag:
		for _, group := range t.node.AllFlags(true) {
			for _, f := range group {
				all = append(all, "--"+f.Name)
			}
		}
		return all
	}
	for _, sub := range t.node.Children {
		if !sub.Hidden {
			all = append(all, sub.Name)
		}
	}
	if t.args < len(t.node.Positional) {
		all = append(all, t.node.Positional[t.args].EnumSlice()...)
	}
	return all
}

// childOf is a node's subcommand of this name. Behind help comes any command.
func childOf(node *kong.Node, name string) *kong.Node {
	i := slices.IndexFunc(node.Children, func(sub *kong.Node) bool { return sub.Name == name })
	switch {
	case i < 0:
		return nil
	case name == "help":
		return node
	}
	return node.Children[i]
}

// flagOf is the flag that a word such as --limit, --limit=5 or -m names.
func flagOf(node *kong.Node, word string) *kong.Flag {
	name, _, _ := strings.Cut(word, "=")
	for _, group := range node.AllFlags(false) {
		for _, f := range group {
			if name == "--"+f.Name || f.Short != 0 && name == "-"+string(f.Short) {
				return f
			}
		}
	}
	return nil
}

// HelpCmd prints the help of a command.
type HelpCmd struct {
	Command []string `arg:"" optional:"" help:"The command, as in: batch submit."`
}

// Run prints it.
func (c HelpCmd) Run(k *kong.Context) error {
	node := k.Model.Node
	for _, word := range c.Command {
		if node = childOf(node, word); node == nil {
			return wrongUsage{fmt.Errorf("there is no command %q: sluice help lists them", strings.Join(c.Command, " "))}
		}
	}
	at, err := kong.Trace(k.Kong, c.Command)
	if err != nil {
		return err
	}
	return at.PrintUsage(false)
}
