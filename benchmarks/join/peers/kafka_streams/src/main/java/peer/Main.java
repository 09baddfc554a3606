package peer;

import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;
import peer.Events.Feedback;
import peer.Events.Label;
import peer.Events.Prediction;

/** A Kafka Streams application: two sources, one processor with three stores, one sink; exactly once. */
public final class Main {
    private Main() {}

    public static void main(String[] words) throws InterruptedException {
        Map<String, String> given = new HashMap<>();
        for (int i = 0; i + 1 < words.length; i += 2) {
            given.put(words[i], words[i + 1]);
        }
        KafkaStreams streams = new KafkaStreams(topology(given), settings(given));
        CountDownLatch ended = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.ERROR) {
                Runtime.getRuntime().halt(1);
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close();
            ended.countDown();
        }));
        streams.start();
        ended.await();
    }

    private static Topology topology(Map<String, String> given) {
        long timeoutMs = Long.parseLong(given.get("--timeout-ms"));
        Serde<String> text = Serdes.String();
        Serde<Prediction> prediction = JsonSerde.of(Prediction.class);
        Serde<Label> label = JsonSerde.of(Label.class);
        return new Topology()
                .addSource("predictions", text.deserializer(), prediction.deserializer(), given.get("--predictions"))
                .addSource("labels", text.deserializer(), label.deserializer(), given.get("--labels"))
                .addProcessor("join", () -> new JoinProcessor(timeoutMs), "predictions", "labels")
                .addStateStore(store(JoinProcessor.PREDICTIONS, prediction), "join")
                .addStateStore(store(JoinProcessor.LABELS, label), "join")
                .addStateStore(store(JoinProcessor.DEADLINES, text), "join")
                .addSink(
                        "output",
                        given.get("--output"),
                        text.serializer(),
                        JsonSerde.of(Feedback.class).serializer(),
                        "join");
    }

    /** RocksDB with a changelog, the library's default. */
    private static <V> StoreBuilder<KeyValueStore<String, V>> store(String name, Serde<V> serde) {
        return Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(name), Serdes.String(), serde);
    }

    private static Properties settings(Map<String, String> given) {
        int partitions = Integer.parseInt(given.get("--partitions"));
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, given.get("--group"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, given.get("--bootstrap"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, given.get("--state"));
        // Commits every 100 ms, which is the default with this guarantee.
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        // A thread per core: more would only wait for each other.
        settings.put(
                StreamsConfig.NUM_STREAM_THREADS_CONFIG,
                Math.max(1, Math.min(partitions, Runtime.getRuntime().availableProcessors())));
        // A process that comes back takes its place at once, not after the dead one's session has run out (45 s).
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG), "worker");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        return settings;
    }
}
