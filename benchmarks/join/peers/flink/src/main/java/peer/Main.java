package peer;

import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.ExternalizedCheckpointRetention;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.configuration.StateRecoveryOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.sink.TransactionNamingStrategy;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.core.execution.RecoveryClaimMode;
import org.apache.flink.formats.json.JsonDeserializationSchema;
import org.apache.flink.formats.json.JsonSerializationSchema;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/** A DataStream job in a mini-cluster of this one JVM: two sources, a keyed function with timers, one sink. */
public final class Main {
    private final Map<String, String> given = new HashMap<>();

    private Main(String[] words) {
        for (int i = 0; i + 1 < words.length; i += 2) {
            given.put(words[i], words[i + 1]);
        }
    }

    public static void main(String[] words) throws Exception {
        new Main(words).run();
    }

    private void run() throws Exception {
        int partitions = Integer.parseInt(given.get("--partitions"));
        // A task per core: more would only wait for each other.
        int parallelism = Math.max(1, Math.min(partitions, Runtime.getRuntime().availableProcessors()));
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(parallelism, settings());
        DataStream<Prediction> predictions = source(env, "predictions", Prediction.class);
        DataStream<Label> labels = source(env, "labels", Label.class);
        predictions
                .keyBy(prediction -> prediction.requestId)
                .connect(labels.keyBy(label -> label.requestId))
                .process(new JoinFunction(Long.parseLong(given.get("--timeout-ms"))))
                .uid("join")
                .sinkTo(sink())
                .uid("output");
        env.execute(given.get("--group"));
    }

    private Configuration settings() throws Exception {
        Path checkpoints = Path.of(given.get("--state")).toAbsolutePath().resolve("checkpoints");
        Configuration settings = new Configuration();
        settings.set(CheckpointingOptions.CHECKPOINTING_CONSISTENCY_MODE, CheckpointingMode.EXACTLY_ONCE);
        // State on the heap is the fastest, and each checkpoint writes it whole: more often than this costs more than
        // the join, see the package's page.
        settings.set(CheckpointingOptions.CHECKPOINTING_INTERVAL, Duration.ofMillis(Long.getLong("checkpoint.ms", 1000)));
        settings.set(StateBackendOptions.STATE_BACKEND, "hashmap");
        settings.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        settings.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, checkpoints.toUri().toString());
        settings.set(
                CheckpointingOptions.EXTERNALIZED_CHECKPOINT_RETENTION,
                ExternalizedCheckpointRetention.RETAIN_ON_CANCELLATION);
        Optional<Path> newest = Checkpoints.newest(checkpoints);
        if (newest.isPresent()) {
            settings.set(StateRecoveryOptions.SAVEPOINT_PATH, newest.get().toUri().toString());
            settings.set(StateRecoveryOptions.RESTORE_MODE, RecoveryClaimMode.CLAIM);
        }
        settings.set(RestartStrategyOptions.RESTART_STRATEGY, "fixed-delay");
        settings.set(RestartStrategyOptions.RESTART_STRATEGY_FIXED_DELAY_ATTEMPTS, Integer.MAX_VALUE);
        settings.set(RestartStrategyOptions.RESTART_STRATEGY_FIXED_DELAY_DELAY, Duration.ofSeconds(1));
        // What is handed on is not changed by anybody, so it need not be copied; and Kryo is never used.
        settings.set(PipelineOptions.OBJECT_REUSE, true);
        settings.set(PipelineOptions.GENERIC_TYPES, false);
        settings.set(TaskManagerOptions.MANAGED_MEMORY_SIZE, MemorySize.ofMebiBytes(1)); // the heap backend takes none
        return settings;
    }

    private <T> DataStream<T> source(StreamExecutionEnvironment env, String name, Class<T> type) {
        KafkaSource<T> source = KafkaSource.<T>builder()
                .setBootstrapServers(given.get("--bootstrap"))
                .setTopics(given.get("--" + name))
                .setGroupId(given.get("--group"))
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setValueOnlyDeserializer(new JsonDeserializationSchema<>(type))
                .setProperty("partition.discovery.interval.ms", "-1")
                .build();
        return env.fromSource(source, WatermarkStrategy.forGenerator(context -> new Watermarks<>()), name)
                .uid(name);
    }

    private KafkaSink<Feedback> sink() {
        JsonSerializationSchema<Feedback> json = new JsonSerializationSchema<>();
        return KafkaSink.<Feedback>builder()
                .setBootstrapServers(given.get("--bootstrap"))
                .setRecordSerializer(KafkaRecordSerializationSchema.<Feedback>builder()
                        .setTopic(given.get("--output"))
                        .setKeySerializationSchema(new RequestId())
                        .setValueSerializationSchema(json)
                        .build())
                .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
                .setTransactionalIdPrefix(given.get("--group"))
                .setTransactionNamingStrategy(TransactionNamingStrategy.POOLING)
                // Above any restart, below the broker's greatest (15 minutes).
                .setProperty("transaction.timeout.ms", "600000")
                .build();
    }
}
