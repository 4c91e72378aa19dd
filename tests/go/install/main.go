// Renders what people install the operator with, by Helm's and kustomize's own code, runs scripts as Argo CD does, and reads
// objects with the types of the Prometheus Operator.
//
//	install helm CHART NAMESPACE VALUES    prints the objects of a chart, with values as JSON
//	install kustomize FOLDER               prints the objects of a kustomization
//	install health SCRIPT OBJECT           prints the status that a script in Lua returns for an object in JSON
//	install monitoring OBJECT              fails if the Prometheus Operator does not know a field of an object in JSON
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	lua "github.com/yuin/gopher-lua"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	text, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(text)
}

func run(args []string) (string, error) {
	switch {
	case len(args) == 4 && args[0] == "helm":
		return helm(args[1], args[2], args[3])
	case len(args) == 2 && args[0] == "kustomize":
		return kustomize(args[1])
	case len(args) == 3 && args[0] == "health":
		return health(args[1], args[2])
	case len(args) == 2 && args[0] == "monitoring":
		return "", known([]byte(args[1]))
	}
	return "", errors.New("usage: install helm CHART NAMESPACE VALUES | kustomize FOLDER | health SCRIPT OBJECT | monitoring OBJECT")
}

// What `helm template` does: values are checked against the schema before the templates are filled in.
func helm(folder, namespace, text string) (string, error) {
	chart, err := loader.Load(folder)
	if err != nil {
		return "", err
	}
	if err := chart.Validate(); err != nil {
		return "", err
	}
	values, err := common.ReadValues([]byte(text))
	if err != nil {
		return "", err
	}
	release := common.ReleaseOptions{Name: "kms-operator", Namespace: namespace, Revision: 1, IsInstall: true}
	values, err = util.ToRenderValues(chart, values, release, nil)
	if err != nil {
		return "", err
	}
	files, err := engine.Engine{Strict: true}.Render(chart, values)
	if err != nil {
		return "", err
	}
	var names []string
	for name := range files {
		// The notes are for people.
		if path.Ext(name) == ".yaml" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	all := ""
	for _, name := range names {
		all += "---\n" + files[name]
	}
	return all, nil
}

func kustomize(folder string) (string, error) {
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return "", err
	}
	text, err := objects.AsYaml()
	return string(text), err
}

// Argo CD gives the object to the script as the global `obj`.
func health(script, text string) (string, error) {
	var object any
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		return "", err
	}
	state := lua.NewState()
	defer state.Close()
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(script); err != nil {
		return "", err
	}
	answer, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", errors.New("the script returns no table")
	}
	return answer.RawGetString("status").String() + " " + answer.RawGetString("message").String() + "\n", nil
}

// Whether the Prometheus Operator knows the kind of the object and all its fields.
func known(text []byte) error {
	var about struct{ Kind string }
	if err := json.Unmarshal(text, &about); err != nil {
		return err
	}
	kinds := map[string]any{
		monitoring.PrometheusRuleKind:  &monitoring.PrometheusRule{},
		monitoring.ServiceMonitorsKind: &monitoring.ServiceMonitor{},
	}
	object, ok := kinds[about.Kind]
	if !ok {
		return fmt.Errorf("%q is no kind of the Prometheus Operator", about.Kind)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	return decoder.Decode(object)
}

// A value of JSON in Lua.
func value(state *lua.LState, from any) lua.LValue {
	switch from := from.(type) {
	case bool:
		return lua.LBool(from)
	case float64:
		return lua.LNumber(from)
	case string:
		return lua.LString(from)
	case []any:
		table := state.NewTable()
		for _, item := range from {
			table.Append(value(state, item))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for name, item := range from {
			table.RawSetString(name, value(state, item))
		}
		return table
	}
	return lua.LNil
}
