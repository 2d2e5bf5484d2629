package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseRedis(t *testing.T) {
	for s, want := range map[string]string{
		"redis://h":                   "[h:6379]   0",
		"redis://:p%40ss@h:1/4":       "[h:1]  p@ss 4",
		"rediss://u:p@[::1]:6380/0":   "[[::1]:6380] u p 0",
		"redis://[::1]":               "[[::1]:6379]   0",
		"redis://h?db=2":              "[h:6379]   2",
		"REDIS://h/?db=2":             "[h:6379]   2",
		"valkey://u:p@h/3":            "[h:6379] u p 3",
		"valkeys://h":                 "[h:6379]   0",
		"redis://default@h":           "[h:6379] default  0",
		"redis://u:p@ss#w@h":          "[h:6379] u p@ss#w 0",
		"unix:///run/r%20s.sock?db=2": "[/run/r s.sock]   2",
		"unix://:p@/run/r.sock":       "[/run/r.sock]  p 0",

		"redis+sentinel://u:p@a,b:2,[::1]:3/m/1":      "[a:26379 b:2 [::1]:3] u p 1",
		"valkey+sentinel://a/m?db=1":                  "[a:26379]   1",
		"redis+cluster://:p@a:1,b:2?protocol=2":       "[a:1 b:2]  p 0",
		"redis+cluster://a?tls=true&protocol=3":       "[a:6379]   0",
		"redis+cluster://a?tls=false&db_=":            "its query holds db_, which is not known",
		"redis://h?foo=1":                             "its query holds foo, which is not known",
		"redis://u:p?x=1@h":                           "percent-encoding",
		"redis+sentinel://a/m?sentinel_password=a&cd": "its query holds a parameter, which is not known",
		"redis://h?db=1&db=2":                         "its query holds db twice",
		"redis://h?protocol=3&protocol=3":             "protocol twice",
		"rediss+cluster://h":                          "?tls=true",
		"rediss+sentinel://h/m":                       "?tls=true",
		"valkeys+cluster://h":                         "?tls=true",
		"redis+unix:///run/r.sock":                    "unix:///run/redis.sock",
		"redis+socket:///run/r.sock":                  "unix:///run/redis.sock",
		"redis://h/1?db=1":                            "twice",
		"redis://h?ssl_cert_reqs=none":                "ssl_cert_reqs, which is not taken: certificates are always verified",
		"rediss://h?skip_verify=true":                 "redis.ca_file",
		"redis://h?pool_size=10":                      "redis.max_connections",
		"redis://h?ssl=true":                          "rediss://",
		"redis://h?password=hunter2":                  "before the host",
		"redis://u@h?password_file=/run/p":            "[h:6379] u  0",
		"redis://u:p@h?password_file=/run/p":          "names a file for it too",
		"redis://h?password_file=p":                   "begins with a slash",
		"redis://h?client_name=x":                     "leave it out",
		"redis://h?timeout=5":                         "dial_timeout",
		"redis://h?protocol=4":                        "neither 2 nor 3",
		"redis://h?read_timeout=0":                    "read_timeout is no time to wait",
		"redis://h?read_timeout=-1s":                  "read_timeout is no time to wait",
		"redis://h?sentinel_password=x":               "where they fit",
		"redis+cluster://a?db=1":                      "no numbered databases",
		"tls://h":                                     "rediss",
		"redis-sentinel://h/m":                        "with a plus",
		"http://h":                                    "its scheme is none of",
		"h:6379":                                      "has to be an address like",
		"redis://a,b":                                 "more than one host",
		"redis://h:pw":                                "percent-encoding",
		"redis+cluster://a?tls=maybe":                 "neither true nor false",
	} {
		r, err := ParseRedis(s)
		got := fmt.Sprintf("%v %s %s %d", r.Addrs, r.Username, r.Password, r.DB)
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%s: got %q, want %q", s, got, want)
		}
	}
	r, err := ParseRedis("rediss://h:1")
	if err != nil || r.TLSConfig == nil || r.TLSConfig.ServerName != "h" {
		t.Errorf("rediss: %+v, %v", r, err)
	}
	r, err = ParseRedis("redis://h?dial_timeout=7&read_timeout=300ms&write_timeout=1m&protocol=2")
	if err != nil || r.DialTimeout != 7*time.Second || r.ReadTimeout != 300*time.Millisecond || r.WriteTimeout != time.Minute || r.Protocol != 2 {
		t.Errorf("timeouts: %+v, %v", r, err)
	}
	r, err = ParseRedis("redis+sentinel://a/mymaster?sentinel_password=q&tls=true")
	if err != nil || r.Kind != SentinelRedis || r.MasterName != "mymaster" || r.SentinelPassword != "q" || r.TLSConfig == nil {
		t.Errorf("sentinel: %+v, %v", r, err)
	}
	r, err = ParseRedis("redis+cluster://a")
	if err != nil || r.Kind != ClusterRedis || r.TLSConfig != nil {
		t.Errorf("cluster: %+v, %v", r, err)
	}
	for _, s := range []string{
		"", "redis://", "redis://h/x", "redis://h/0/1", "redis://h:0", "redis://::1", "redis://u:%zz@h", "unix://run/s", "unix://", "unix:///s?db=-1",
		"redis+sentinel://a", "redis+sentinel://a/m/x", "redis+sentinel://a,/m", "redis+cluster://a/0", "redis://h/99999999",
	} {
		if r, err := ParseRedis(s); err == nil {
			t.Errorf("%q is taken: %+v", s, r)
		}
	}
	for _, s := range []string{
		"redis://u:hunter2@h:x", "redis://u:a/hunter2@h", "redis://u:hunter2/a@h", "redis://:a@h/0?hunter2=1@real", "redis+sentinel://a/m?sentinel_password=a&hunter2", "redis://u:a?hunter2@h", "redis://u:a?protocol=hunter2@h",
		"hunter2", "hunter2://h", "redis://h?read_timeout=hunter2", "redis://u:a?password_file=/hunter2@h",
	} {
		if _, err := ParseRedis(s); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v; want an error without the password", s, err)
		}
		if got := maskRedis(s); strings.Contains(got, "hunter2") {
			t.Errorf("masked as %q", got)
		}
	}
	for s, want := range map[string]string{
		"redis://default@h":    "redis://default@h",
		"redis://u:p@h/1?db=1": mask,
		"redis://u:p@h/1":      "redis://u:" + mask + "@h/1",
		"redis+sentinel://:p@h/m?sentinel_password=q&db=1": "redis+sentinel://:" + mask + "@h/m?sentinel_password=" + mask + "&db=1",
	} {
		if got := maskRedis(s); got != want {
			t.Errorf("masked as %q, want %q", got, want)
		}
	}
}

// Each file is a fault by its own key where it does not fit.
func TestFilesOfRedis(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	full, empty := file("password", "hunter2\n"), file("empty", "\n")
	for config, want := range map[string]string{
		"url: redis://h, password_file: " + full:                                "",
		"url: redis://h, password_file: " + empty:                               "redis.password_file",
		"url: redis://h, password_file: /nosuch":                                "redis.password_file",
		"url: \"redis://:p@h\", password_file: " + full:                         "redis.password_file",
		"password_file: " + full:                                                "redis.password_file",
		"url: \"redis://h?password_file=" + full + "\"":                         "",
		"url: \"redis://h?password_file=/nosuch\"":                              "redis.url",
		"url: \"redis://h?password_file=" + empty + "\"":                        "redis.url",
		"url: \"redis://h?password_file=" + full + "\", password_file: " + full: "redis.password_file",
		"ca_file: /nosuch, cert_file: /nosuch, key_file: /nosuch":               "redis.ca_file redis.cert_file redis.key_file",
		"url: redis://h, ca_file: /nosuch":                                      "redis.ca_file",
		"url: rediss://h, ca_file: " + full:                                     "redis.ca_file",
		"url: rediss://h, cert_file: /nosuch":                                   "redis.key_file",
		"url: rediss://h, key_file: /nosuch":                                    "redis.cert_file",
		"url: rediss://h, cert_file: " + full + ", key_file: " + full:           "redis.cert_file",
		"url: \"redis+cluster://h?tls=true\", ca_file: /nosuch":                 "redis.ca_file",
		"url: \"redis+sentinel://h/m\", ca_file: /nosuch":                       "redis.ca_file",
	} {
		_, faults := load(t, "redis: {"+config+"}")
		var keys []string
		for _, f := range faults {
			keys = append(keys, f.Key)
			if strings.Contains(f.String(), "hunter2") {
				t.Errorf("%s: %s", config, f)
			}
		}
		slices.Sort(keys)
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("%s: faults of %q, want %q: %v", config, got, want, faults)
		}
	}
}

func FuzzParseRedis(f *testing.F) {
	for _, s := range []string{"redis://u:p@h:1/2", "unix:///s?db=1", "redis+sentinel://a,b/m?tls=true", "redis+cluster://[::1]:1", "valkey://h?protocol=3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRedis(s)
		if (err == nil) != (len(r.Addrs) > 0) {
			t.Errorf("%q: %d addresses, error %v", s, len(r.Addrs), err)
		}
		_ = maskRedis(s)
	})
}
