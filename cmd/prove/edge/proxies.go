package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// find returns where programs are, those that only an administrator has in the PATH as well.
func find(names ...string) (map[string]string, error) {
	found := map[string]string{}
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
				return nil, fmt.Errorf("%s is needed: apt-get install nginx-light haproxy", name)
			}
		}
		found[name] = path
	}
	return found, nil
}

// proxies are nginx and HAProxy before a stage's APIs.
type proxies struct {
	running []*rig.Proc
	// front are the addresses of the examples in deploy. Those of impatient have
	// settings of a package and nothing else, in a tenth of the time.
	front, impatient map[string]string
}

func (p *proxies) close() (err error) {
	for _, r := range p.running {
		err = errors.Join(err, r.Stop())
	}
	return err
}

// start starts both and waits until they pass on what they are asked.
func start(ctx context.Context, programs map[string]string, examples string, s *rig.Stage) (*proxies, error) {
	p := &proxies{front: map[string]string{}, impatient: map[string]string{}}
	dir := filepath.Join(s.Dir, "nginx")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return p, err
	}
	free := map[string]string{}
	for _, name := range []string{"nginx", "haproxy", "nginx, two lines", "haproxy, OPTIONS /", "haproxy, HEAD / HTTP/1.0"} {
		addr, err := rig.FreeAddress()
		if err != nil {
			return p, err
		}
		free[name] = addr
		if strings.Contains(name, ",") {
			p.impatient[name] = addr
		} else {
			p.front[name] = addr
		}
	}
	site, err := nginx(examples, dir, s.Addrs, free)
	if err != nil {
		return p, err
	}
	if err := p.run(s, "nginx", programs["nginx"], site, "-p", dir, "-g", "daemon off;", "-c"); err != nil {
		return p, err
	}
	config, err := haproxy(examples, s.Addrs, free)
	if err != nil {
		return p, err
	}
	if err := p.run(s, "haproxy", programs["haproxy"], config, "-db", "-f"); err != nil {
		return p, err
	}
	for way, addr := range free {
		c := newCaller(addr, s.Token)
		err := rig.Until(ctx, 10*time.Second, way+" passes requests on", func(ctx context.Context) (bool, error) {
			a, err := c.do(ctx, "GET", "/healthz", "")
			return err == nil && a.status == 200, nil
		})
		c.close()
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

// run writes a configuration and runs a program with it, named behind args.
func (p *proxies) run(s *rig.Stage, name, program, config string, args ...string) error {
	file := filepath.Join(s.Dir, name+".conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	r := &rig.Proc{Name: name, Path: program, Args: append(args, file), Log: filepath.Join(s.Dir, name+".log")}
	p.running = append(p.running, r)
	return r.Start()
}

// swap replaces in a text what is in it once.
func swap(text string, pairs ...string) (string, error) {
	for i := 0; i < len(pairs); i += 2 {
		if strings.Count(text, pairs[i]) != 1 {
			return "", fmt.Errorf("%q is there %d times, want once", pairs[i], strings.Count(text, pairs[i]))
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text, nil
}

// example reads an example with the proof's ports in the place of its own.
func example(folder, name, listen, here string, apis []string) (string, error) {
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		return "", err
	}
	out, err := swap(string(text), "127.0.0.1:8080", apis[0], "127.0.0.1:8081", apis[1], listen, here)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

// nginx is the package's nginx.conf with the example and a server of two lines in the
// place of its sites, and what it writes in a folder of the proof's.
func nginx(examples, dir string, apis []string, at map[string]string) (string, error) {
	base, err := os.ReadFile("/etc/nginx/nginx.conf")
	if err != nil {
		return "", err
	}
	site, err := example(examples, "nginx.conf", "listen 80;", "listen "+at["nginx"]+";", apis)
	if err != nil {
		return "", err
	}
	site += fmt.Sprintf("\nserver {\n    listen %s;\n    proxy_read_timeout 6s;\n    location / { proxy_pass http://%s; }\n}\n", at["nginx, two lines"], apis[0])
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		site = fmt.Sprintf("%s_temp_path %s/%s;\n", kind, dir, kind) + site
	}
	if err := os.WriteFile(filepath.Join(dir, "sites"), []byte(site), 0o600); err != nil {
		return "", err
	}
	text := regexp.MustCompile(`(?m)^user .*;|^include /etc/nginx/modules-enabled/.*;`).ReplaceAllString(string(base), "")
	text = strings.NewReplacer("/run/", dir+"/", "/var/log/nginx/", dir+"/").Replace(text)
	return swap(text, "include /etc/nginx/conf.d/*.conf;", "", "include /etc/nginx/sites-enabled/*;", "include "+filepath.Join(dir, "sites")+";")
}

// haproxy is what the package's haproxy.cfg says below "defaults" with the example, and
// backends with its standard checks, which give up when the APIs' longest wait ends, as
// the package's 50 s do.
func haproxy(examples string, apis []string, at map[string]string) (string, error) {
	base, err := os.ReadFile("/etc/haproxy/haproxy.cfg")
	if err != nil {
		return "", err
	}
	_, defaults, ok := strings.Cut(string(base), "\ndefaults\n")
	if !ok {
		return "", errors.New("/etc/haproxy/haproxy.cfg has no defaults")
	}
	text, err := example(examples, "haproxy.cfg", "bind :80\n", "bind "+at["haproxy"]+"\n", apis)
	if err != nil {
		return "", err
	}
	for name, check := range map[string]string{"haproxy, OPTIONS /": "httpchk", "haproxy, HEAD / HTTP/1.0": "httpchk HEAD / HTTP/1.0"} {
		_, port, _ := net.SplitHostPort(at[name])
		text += fmt.Sprintf("\nfrontend in%s\n    bind %s\n    default_backend out%[1]s\nbackend out%[1]s\n    option %[3]s\n    timeout server %ds\n    server a %s check inter 200ms\n",
			port, at[name], check, maxWait, apis[0])
	}
	return "defaults\n" + defaults + "\n" + text, nil
}
