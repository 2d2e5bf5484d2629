// Package kubernetes holds the manifests of this folder to the types of Kubernetes. It is a
// module of its own, so that the product does not depend on these.
package kubernetes

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// object is any of the kinds below.
type object interface{ GetName() string }

// kinds are the types that the manifests are decoded into.
var kinds = map[string]func() object{
	"v1 ConfigMap":                           func() object { return new(corev1.ConfigMap) },
	"v1 ServiceAccount":                      func() object { return new(corev1.ServiceAccount) },
	"v1 Service":                             func() object { return new(corev1.Service) },
	"apps/v1 Deployment":                     func() object { return new(appsv1.Deployment) },
	"apps/v1 StatefulSet":                    func() object { return new(appsv1.StatefulSet) },
	"policy/v1 PodDisruptionBudget":          func() object { return new(policyv1.PodDisruptionBudget) },
	"networking.k8s.io/v1 NetworkPolicy":     func() object { return new(networkingv1.NetworkPolicy) },
	"autoscaling/v2 HorizontalPodAutoscaler": func() object { return new(autoscalingv2.HorizontalPodAutoscaler) },
}

// decode reads every object of this folder, strictly: a member that its type does not have is
// a fault.
func decode(t *testing.T) (all []object) {
	t.Helper()
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("files %q, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, doc := range bytes.Split(text, []byte("\n---\n")) {
			var kind metav1.TypeMeta
			if err := yaml.Unmarshal(doc, &kind); err != nil {
				t.Fatalf("%s, object %d: %v", file, i+1, err)
			}
			made := kinds[kind.APIVersion+" "+kind.Kind]
			if made == nil {
				t.Fatalf("%s, object %d: no type for %s %s", file, i+1, kind.APIVersion, kind.Kind)
			}
			o := made()
			if err := yaml.UnmarshalStrict(doc, o); err != nil {
				t.Errorf("%s, object %d (%s): %v", file, i+1, kind.Kind, err)
			}
			all = append(all, o)
		}
	}
	return all
}

// of are the objects of one type.
func of[T object](all []object) (some []T) {
	for _, o := range all {
		if one, ok := o.(T); ok {
			some = append(some, one)
		}
	}
	return some
}

// workload is what makes pods.
type workload struct {
	kind, name string
	replicas   int32
	selector   *metav1.LabelSelector
	pod        corev1.PodTemplateSpec
	claims     []corev1.PersistentVolumeClaim
}

func workloads(all []object) (list []workload) {
	for _, d := range of[*appsv1.Deployment](all) {
		list = append(list, workload{"Deployment", d.Name, *d.Spec.Replicas, d.Spec.Selector, d.Spec.Template, nil})
	}
	for _, s := range of[*appsv1.StatefulSet](all) {
		list = append(list, workload{"StatefulSet", s.Name, *s.Spec.Replicas, s.Spec.Selector, s.Spec.Template, s.Spec.VolumeClaimTemplates})
	}
	return list
}

func selected(t *testing.T, list []workload, s *metav1.LabelSelector) (found []workload) {
	t.Helper()
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range list {
		if sel.Matches(labels.Set(w.pod.Labels)) {
			found = append(found, w)
		}
	}
	return found
}

// Whatever names another object names one that is here.
func TestTheManifestsFitTogether(t *testing.T) {
	all := decode(t)
	list := workloads(all)
	if len(list) != 2 {
		t.Fatalf("%d workloads", len(list))
	}
	named := func(name string) *workload {
		i := slices.IndexFunc(list, func(w workload) bool { return w.name == name })
		if i < 0 {
			return nil
		}
		return &list[i]
	}
	for _, w := range list {
		if got := selected(t, list, w.selector); len(got) != 1 || got[0].name != w.name {
			t.Errorf("%s %s selects %d workloads' pods", w.kind, w.name, len(got))
		}
	}
	for _, s := range of[*corev1.Service](all) {
		got := selected(t, list, &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
		if len(got) != 1 {
			t.Errorf("service %s selects %d workloads", s.Name, len(got))
			continue
		}
		for _, p := range s.Spec.Ports {
			if !slices.ContainsFunc(got[0].pod.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool { return c.Name == p.TargetPort.StrVal }) {
				t.Errorf("service %s leads to the port %q, which its pods do not have", s.Name, p.TargetPort.StrVal)
			}
		}
	}
	for _, b := range of[*policyv1.PodDisruptionBudget](all) {
		got := selected(t, list, b.Spec.Selector)
		if len(got) != 1 || b.Spec.MinAvailable == nil || b.Spec.MinAvailable.Type != intstr.Int || b.Spec.MinAvailable.IntVal >= got[0].replicas {
			t.Errorf("the budget %s leaves no pod that may be taken away", b.Name)
		}
	}
	for _, h := range of[*autoscalingv2.HorizontalPodAutoscaler](all) {
		w := named(h.Spec.ScaleTargetRef.Name)
		if w == nil || w.kind != h.Spec.ScaleTargetRef.Kind || *h.Spec.MinReplicas != w.replicas || h.Spec.MaxReplicas <= w.replicas {
			t.Errorf("the autoscaler %s does not fit what it scales: %+v", h.Name, h.Spec)
		}
	}
	for _, p := range of[*networkingv1.NetworkPolicy](all) {
		if len(selected(t, list, &p.Spec.PodSelector)) == 0 {
			t.Errorf("the policy %s is of no pod", p.Name)
		}
		if slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) != (len(p.Spec.Ingress) > 0) && p.Name != "sluice-none" {
			t.Errorf("the policy %s: types %v", p.Name, p.Spec.PolicyTypes)
		}
	}
}

// Pods run as nobody, write nowhere but to their volumes, stop in their own time, and read
// files that are mounted.
func TestPodsAreBounded(t *testing.T) {
	all := decode(t)
	maps := of[*corev1.ConfigMap](all)
	for _, w := range workloads(all) {
		spec, c := w.pod.Spec, w.pod.Spec.Containers[0]
		switch {
		case spec.SecurityContext == nil || !*spec.SecurityContext.RunAsNonRoot || spec.SecurityContext.SeccompProfile == nil:
			t.Errorf("%s: the pod may run as root, or makes any call", w.name)
		case c.SecurityContext == nil || *c.SecurityContext.AllowPrivilegeEscalation || !*c.SecurityContext.ReadOnlyRootFilesystem || !slices.Contains(c.SecurityContext.Capabilities.Drop, "ALL"):
			t.Errorf("%s: the container has more than it needs", w.name)
		case *spec.AutomountServiceAccountToken:
			t.Errorf("%s has a token of the cluster", w.name)
		case *spec.TerminationGracePeriodSeconds < 36:
			t.Errorf("%s has %d s to stop", w.name, *spec.TerminationGracePeriodSeconds)
		case c.ReadinessProbe == nil || c.LivenessProbe == nil || c.Resources.Limits.Memory().IsZero():
			t.Errorf("%s has no probe, or no limit of memory", w.name)
		}
		volumes := map[string]bool{}
		for _, v := range spec.Volumes {
			volumes[v.Name] = true
			if v.ConfigMap != nil && !slices.ContainsFunc(maps, func(m *corev1.ConfigMap) bool { return m.Name == v.ConfigMap.Name }) {
				t.Errorf("%s mounts the ConfigMap %s, which is not here", w.name, v.ConfigMap.Name)
			}
			if v.Secret != nil && w.name == "sluice-worker" && (len(v.Secret.Items) == 0 || slices.ContainsFunc(v.Secret.Items, func(i corev1.KeyToPath) bool { return i.Key == "hmac_secret" })) {
				t.Errorf("%s has what signs tokens: %+v", w.name, v.Secret.Items)
			}
		}
		for _, v := range w.claims {
			volumes[v.Name] = true
		}
		mounted := func(path string) bool {
			return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
				return volumes[m.Name] && (path == m.MountPath || strings.HasPrefix(path, m.MountPath+"/"))
			})
		}
		for _, e := range c.Env {
			if strings.HasPrefix(e.Value, "/") && !mounted(e.Value) {
				t.Errorf("%s: %s is %s, where nothing is mounted", w.name, e.Name, e.Value)
			}
		}
		if !mounted("/data") {
			t.Errorf("%s has no /data", w.name)
		}
	}
}
