package worker_test

import (
	"testing"

	"github.com/hibiken/asynq"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// Another program's tasks in a queue of ours were acknowledged, and so destroyed.
// They fail as often as they may, and then lie in the archive; ours run beside them.
func TestAnotherProgramsTasksAreNotDestroyed(t *testing.T) {
	t.Parallel()
	p := newProvider(t, say)
	s := start(t, p, options{})
	rdb := s.srv.Client()
	client := asynq.NewClientFromRedisClient(rdb)
	payload := `{"id":"job_01","attempt":1}`
	for id, retries := range map[string]int{"theirs": 0, "again": 3} {
		if _, err := client.EnqueueContext(t.Context(), asynq.NewTask("prompt", []byte(payload)), asynq.Queue(claude), asynq.TaskID(id), asynq.MaxRetry(retries)); err != nil {
			t.Fatal(err)
		}
	}
	if j := s.final(s.submit()); j.Status != tasks.StatusSucceeded {
		t.Errorf("beside them: %s", j.Status)
	}
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	for id, want := range map[string]asynq.TaskState{"theirs": asynq.TaskStateArchived, "again": asynq.TaskStateRetry} {
		redistest.Until(t, id+" has been refused", func() bool {
			info, err := inspector.GetTaskInfo(claude, id)
			if err != nil {
				t.Fatalf("%s: %v", id, err)
			}
			return info.State == want && string(info.Payload) == payload
		})
	}
}
